"""A rank's process that only listens; its payload says how it misbehaves."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT)]

from llmplug.engine.ranks.link import Link, take_link  # noqa: E402


def read(link: Link) -> dict[str, object]:
    message = link.receive()
    if message is None:
        os._exit(0)
    return msgspec.msgpack.decode(message)


def main() -> None:
    link = take_link()
    order = read(link)
    options = json.loads(order["payload"])
    Path(options["journal"] + str(order["rank"])).write_text(str(os.getpid()))
    said = read(link)
    if said != {"type": "BuildModel", "num_pages": 7, "checkpoint": b""}:
        sys.exit(f"told to {said}")
    is_chosen = order["rank"] == options["who"]
    if is_chosen and options["how"] == "exits":
        sys.exit(7)
    if is_chosen and options["how"] == "fails":
        error = {"message": options["why"], "kind": options["kind"]}
        link.send(msgspec.msgpack.encode({"type": "RankFailed", "error": error}))
        os._exit(1)
    link.send(msgspec.msgpack.encode({"type": "RankReady"}))
    if options["how"] == "clings":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    while True:
        read(link)


if __name__ == "__main__":
    main()
