"""Encryption of the main listener."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from llmplug.config import TlsConfig


def open_tls(settings: TlsConfig) -> ssl.SSLContext:
    """Read certificates; TLS 1.2 is the least that is spoken.

    Raises:
        ConfigError: a file cannot be read, or is not what it should be.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.certificate, settings.private_key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"server.tls: certificate or private key: {error}") from error
    if settings.client_ca is not None:
        try:
            context.load_verify_locations(settings.client_ca)
        except OSError as error:
            raise ConfigError(f"server.tls.client_ca: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context
