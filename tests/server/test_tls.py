"""TLS and mutual TLS, with certificates made here."""

from __future__ import annotations

import shutil
import socket
import ssl
from pathlib import Path

import httpx
import pytest

from llmplug.config import ServerConfig, TlsConfig
from llmplug.errors import ConfigError
from llmplug.server.app import create_app, start_server, stop_server
from llmplug.server.service import Service
from llmplug.server.tls import open_tls
from tests.certificates import make_certificate

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two self-signed certificates: of a server at 127.0.0.1, and of a client."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "client"):
        make_certificate(folder, name)
    return folder


def settings(folder: Path, *, is_mutual: bool) -> TlsConfig:
    return TlsConfig(
        certificate=str(folder / "server.pem"),
        private_key=str(folder / "server.key"),
        client_ca=str(folder / "client.pem") if is_mutual else None,
    )


async def ask(folder: Path, tls: TlsConfig, *, shows_certificate: bool) -> int:
    """Ask a server of its own whether it lives."""
    app = create_app(Service([]), ServerConfig(tls=tls))
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    server = await start_server(app, sock, open_tls(tls))
    context = ssl.create_default_context(cafile=folder / "server.pem")
    if shows_certificate:
        context.load_cert_chain(folder / "client.pem", folder / "client.key")
    try:
        async with httpx.AsyncClient(verify=context, timeout=10) as http:
            url = f"https://127.0.0.1:{sock.getsockname()[1]}/live"
            return (await http.get(url)).status_code
    finally:
        await stop_server(server)


async def test_it_speaks_tls(folder: Path) -> None:
    tls = settings(folder, is_mutual=False)
    assert await ask(folder, tls, shows_certificate=False) == 200


async def test_clients_show_a_certificate_where_one_is_asked_for(folder: Path) -> None:
    tls = settings(folder, is_mutual=True)
    assert await ask(folder, tls, shows_certificate=True) == 200
    with pytest.raises((httpx.TransportError, ssl.SSLError)):
        await ask(folder, tls, shows_certificate=False)


def test_files_that_are_none_are_told(folder: Path) -> None:
    good = settings(folder, is_mutual=False)
    for change, word in (
        ({"certificate": str(folder / "absent.pem")}, "certificate or private key"),
        ({"private_key": str(folder / "client.key")}, "certificate or private key"),
        ({"client_ca": str(folder / "server.key")}, "server.tls.client_ca"),
    ):
        with pytest.raises(ConfigError, match=word):
            open_tls(good.model_copy(update=change))
