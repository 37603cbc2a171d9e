"""Schemathesis over the server's description; `make test-fuzz` installs it apart, and runs this."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from .conftest import StartServer
from .test_fuzz import StrictEngine

PROGRAM = Path(__file__).parents[2] / "build" / "fuzz" / "bin" / "schemathesis"
MAX_S = 100


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAM.exists(), reason="schemathesis is not installed: make test-fuzz")
async def test_no_request_makes_the_server_fail(start: StartServer, tmp_path: Path) -> None:
    server = await start(engine=StrictEngine())
    api = (await server.http.get("/openapi.json")).json()
    for schema in api["components"]["schemas"].values():
        # A made-up one is a 404, and nothing more is tried.
        if "model" in schema.get("properties", ()):
            schema["properties"]["model"] = {"enum": ["toy", "org/toy"]}
    description = tmp_path / "openapi.json"
    description.write_text(json.dumps(api), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        "run",
        description,
        f"--url={server.url}",
        "--checks=not_a_server_error",
        "--phases=coverage,fuzzing",
        f"--max-time={MAX_S}",
        "--seed=1",
        "--no-color",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-5000:]
