"""What shows that a message on a network is from whom it seems to be from, unchanged, and its turn.

Source: https://www.rfc-editor.org/rfc/rfc7693 (keyed BLAKE2b)
"""

from __future__ import annotations

import hashlib
import hmac

TAG_BYTES = 16


class Seal:
    """Tags the messages of one direction, or checks them; each end has one for either.

    Messages are counted, so that one that is repeated, left out or moved is found out.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._count = 0

    def make_tag(self, message: bytes) -> bytes:
        """Return the tag of the next message."""
        tag = hashlib.blake2b(key=self._key, digest_size=TAG_BYTES)
        tag.update(self._count.to_bytes(8, "big"))
        tag.update(message)
        self._count += 1
        return tag.digest()

    def is_next(self, message: bytes, tag: bytes) -> bool:
        """Return whether this is the next message, as it was sent."""
        return hmac.compare_digest(self.make_tag(message), tag)
