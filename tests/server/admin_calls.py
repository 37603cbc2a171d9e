"""Calls of an admin listener that lives for them."""

from __future__ import annotations

import asyncio

import httpx

from llmplug.config import AdminConfig
from llmplug.server.admin import open_admin

from .conftest import Running

HERE = AdminConfig(port=0)


def ask(server: Running, *asked: tuple[str, str], key: str = "") -> list[httpx.Response]:
    """Ask without the event loop's help: it hangs until the answers are here."""
    admin = open_admin(server.app, HERE)
    assert admin is not None
    url = f"http://127.0.0.1:{admin.address[1]}"
    try:
        with httpx.Client(base_url=url, headers={"x-api-key": key} if key else {}) as http:
            return [http.request(method, path) for method, path in asked]
    finally:
        admin.close()


async def ask_beside(
    server: Running, *asked: tuple[str, str], key: str = ""
) -> list[httpx.Response]:
    """Ask while the server's event loop goes on."""
    return await asyncio.to_thread(ask, server, *asked, key=key)
