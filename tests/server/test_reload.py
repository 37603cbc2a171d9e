"""A reload takes everything new or nothing, and nobody who is being answered notices."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_plugins import Site
from tiny import CHAT_TEMPLATE, make_checkpoint

from llmplug import assemble
from llmplug.config import load
from llmplug.server import app as app_module
from llmplug.server.model_service import ModelService
from llmplug.server.reload import Origin

from .admin_calls import ask_beside
from .conftest import Running, StartServer, until
from .fake_engine import FakeEngine, endless
from .sse_reader import joined_text, parse_events

TEMPLATE_TOO = CHAT_TEMPLATE.replace("{{ message.content }}", "{{ message.content | upper }}")


@dataclass
class Lab:
    """A server of a tiny model's texts, and the files that it was started with."""

    server: Running
    config: Path
    template: Path
    fields: dict[str, Any]

    def write(self, **changes: Any) -> None:
        """Write the config with changed keys: `server__port=1`, `models__tool_parser="x"`."""
        write_config(self.config, self.fields, changes)

    async def reload(self) -> httpx.Response:
        (answer,) = await ask_beside(self.server, ("POST", "/reload"), key="root")
        return answer

    async def reason(self) -> str:
        """Reload what is wrong, and return why nothing was."""
        answer = await self.reload()
        assert answer.status_code == 409, answer.text
        message: str = answer.json()["error"]["message"]
        assert message.startswith("nothing was reloaded: ")
        return message

    async def prompt(self, key: str = "first") -> str:
        """The prompt that the engine gets for "Hi"."""
        return self.prompt_of(await self.ask(key))

    def prompt_of(self, answer: httpx.Response) -> str:
        """The prompt of the last request, which got this answer."""
        assert answer.status_code == 200, answer.text
        return self.read(self.server.engine.requests[-1].prompt_ids)

    async def ask(self, key: str = "first", **fields: Any) -> httpx.Response:
        body = {"model": "toy", "messages": [{"role": "user", "content": "Hi"}], **fields}
        headers = {"x-api-key": key}
        return await self.server.http.post("/v1/chat/completions", json=body, headers=headers)

    def read(self, ids: list[int]) -> str:
        tokenizer = self.server.service.models[0].tokenizer
        return tokenizer.decode(ids, skip_special_tokens=False)


def write_config(path: Path, fields: dict[str, Any], changes: dict[str, Any]) -> None:
    text = json.loads(json.dumps(fields))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        place = text["models"][0] if section == "models" else text.setdefault(section, {})
        place[name] = value
    path.write_text(json.dumps(text))  # YAML, too


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("toy"))


Open = Callable[..., Any]


@pytest.fixture
def open_lab(start: StartServer, checkpoint: Path, tmp_path: Path) -> Open:
    async def open_one(engine: FakeEngine | None = None, **changes: Any) -> Lab:
        config, template = tmp_path / "config.yaml", tmp_path / "chat.jinja"
        template.write_text(CHAT_TEMPLATE)
        fields = {
            "server": {
                "port": 0,
                "api_keys": ["first", {"key": "root", "scopes": ["admin"]}],
                "responses": {"path": "memory"},
                "batches": {"path": "none"},
            },
            "models": [{"name": "toy", "source": str(checkpoint), "chat_template": str(template)}],
        }
        write_config(config, fields, changes)
        running = load(config)
        registry = assemble.load_registry(running)
        plan = assemble.plan_text(running.models[0], registry, lambda *_: None)
        engine = engine or FakeEngine()
        model = ModelService("toy", plan.tokenizer, plan.renderer, engine, dialect=plan.dialect)
        origin = Origin(running, lambda: load(config), registry, {"toy": plan})
        server = await start(engine=engine, model=model, origin=origin)
        return Lab(server, config, template, fields)

    return open_one


async def test_nothing_new_changes_nothing(open_lab: Open) -> None:
    lab = await open_lab()
    before = await lab.prompt()
    assert (await lab.reload()).json() == {
        "status": "reloaded",
        "changed": [],
        "needs_restart": [],
    }
    assert await lab.prompt() == before


async def test_a_template_changes_for_who_comes_and_not_for_who_is_here(open_lab: Open) -> None:
    gate = asyncio.Event()
    lab = await open_lab(FakeEngine(endless(gate)))
    stream = asyncio.create_task(lab.ask(stream=True, stop="bababa"))
    await until(lambda: lab.server.engine.num_open == 1)
    lab.template.write_text(TEMPLATE_TOO)
    assert (await lab.reload()).status_code == 200
    gate.set()
    assert "HI" in lab.prompt_of(await lab.ask(stop="bab"))
    assert joined_text(parse_events((await stream).text)) == "a"
    assert "Hi" in lab.read(lab.server.engine.requests[0].prompt_ids)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for", "template"),
        ("{{ raise_exception('no') }}", "cannot write 'Hello': no"),
        ("", "makes nothing of 'Hello'"),
        (CHAT_TEMPLATE.replace("<|im_end|>", "<|endoftext|>"), "needs a restart"),
    ],
)
async def test_a_bad_template_rolls_all_of_it_back(
    open_lab: Open, template: str, reason: str
) -> None:
    lab = await open_lab()
    before = await lab.prompt()
    lab.template.write_text(template)
    lab.write(server__api_keys=["second", {"key": "root", "scopes": ["admin"]}])
    assert reason in await lab.reason()
    assert await lab.prompt("first") == before
    assert (await lab.ask("second")).status_code == 401


async def test_a_dialect_that_does_not_read_the_template_is_refused(open_lab: Open) -> None:
    lab = await open_lab()
    before = lab.server.service.models[0].dialect
    calls = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
        "{% for call in message.tool_calls or [] %}CALL {{ call.function.name }} "
        "{{ call.function.arguments }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{{ tools and '' }}"
    )
    lab.template.write_text(calls)
    lab.write(models__tool_parser="hermes")
    assert "does not read what the template writes" in await lab.reason()
    assert lab.server.service.models[0].dialect is before


async def test_keys_and_limits_of_the_config(open_lab: Open) -> None:
    lab = await open_lab()
    lab.write(
        server__api_keys=["second", {"key": "root", "scopes": ["admin"]}],
        server__max_waiting_requests=0,
        server__strict_fields=True,
    )
    answer = await lab.reload()
    assert answer.json()["changed"] == [
        "server.api_keys",
        "server.max_waiting_requests",
        "server.strict_fields",
    ]
    assert (await lab.ask("first")).status_code == 401
    assert (await lab.ask("second")).status_code == 429
    assert "second" not in answer.text
    lab.write(server__max_waiting_requests=5)
    await lab.reload()
    assert (await lab.ask("second")).status_code == 401
    assert (await lab.ask("first")).status_code == 200
    assert (await lab.ask("first", colour="red")).status_code == 200


async def test_what_needs_a_restart_is_named_and_left_alone(open_lab: Open) -> None:
    lab = await open_lab()
    lab.write(server__port=1, models__dtype="bfloat16", server__drain_s=1.0)
    for changed in (["server.drain_s"], []):
        answer = (await lab.reload()).json()
        assert answer["changed"] == changed
        assert answer["needs_restart"] == ["server.port", "models.0.dtype"]
    assert lab.server.app.ctx.drain_s == 1.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"server__max_waiting_requests": "many"}, "server.max_waiting_requests"),
        ({"server__unknown": 1}, "unknown key 'unknown'"),
        ({"models__chat_template": "no-such"}, "no-such"),
        ({"models__tool_parser": "no-such"}, "no-such"),
        ({"server__api_keys_file": "/no/such/file"}, "/no/such/file"),
    ],
)
async def test_a_wrong_config_is_refused(
    open_lab: Open, changes: dict[str, Any], reason: str
) -> None:
    lab = await open_lab()
    lab.write(**changes)
    assert reason in await lab.reason()
    assert (await lab.ask()).status_code == 200


async def test_a_reload_cannot_open_the_door_to_others(open_lab: Open) -> None:
    """The keys may change, and the address may not: both are looked at together."""
    lab = await open_lab(server__host="0.0.0.0")
    lab.write(server__host="127.0.0.1", server__api_keys=[])
    assert "can be reached from other machines" in await lab.reason()
    assert (await lab.ask("wrong")).status_code == 401


async def test_the_admin_listener_keeps_its_key(open_lab: Open) -> None:
    lab = await open_lab(server__admin={"host": "0.0.0.0", "port": 0})
    lab.write(server__admin={"host": "0.0.0.0", "port": 0}, server__api_keys=["first"])
    assert "the scope 'admin'" in await lab.reason()


PLUGIN = """
from pathlib import Path

@hookimpl
def llmplug_chat_templates():
    return [ChatTemplateSpec(name="shouting", source={source!r}, fits=lambda _: False)]
"""


async def test_a_plugin_is_imported_anew_or_stays_as_it_was(open_lab: Open, site: Site) -> None:
    path = site.install("shout", PLUGIN.format(source=CHAT_TEMPLATE))
    head = path.read_text().removesuffix(PLUGIN.format(source=CHAT_TEMPLATE))
    lab = await open_lab(models__chat_template="shouting")
    lab.write(models__chat_template="shouting")
    first = sys.modules["fake_dist_shout_shout"]
    assert "Hi" in await lab.prompt()
    path.write_text(head + "1 / 0")
    assert "ZeroDivisionError" in await lab.reason()
    assert sys.modules["fake_dist_shout_shout"] is first
    assert "Hi" in await lab.prompt()
    path.write_text(head + PLUGIN.format(source=TEMPLATE_TOO))
    assert (await lab.reload()).json()["changed"] == ["plugin package fake_dist_shout_shout"]
    assert sys.modules["fake_dist_shout_shout"] is not first
    assert "HI" in await lab.prompt()
    assert (await lab.reload()).json()["changed"] == []


async def test_a_plugin_that_engines_have_loaded_waits_for_a_restart(
    open_lab: Open, site: Site
) -> None:
    code = "@hookimpl\ndef llmplug_samplers():\n    return [sampler('odd')]\n"
    path = site.install("odd", code)
    lab = await open_lab()
    path.write_text(path.read_text() + "# changed\n")
    for _ in range(2):
        answer = (await lab.reload()).json()
        assert answer["needs_restart"] == ["plugin package fake_dist_odd_odd"]
        assert answer["changed"] == []


async def test_a_plugin_may_be_installed_meanwhile(open_lab: Open, site: Site) -> None:
    lab = await open_lab()
    site.install("shout", PLUGIN.format(source=TEMPLATE_TOO))
    lab.write(models__chat_template="shouting")
    assert (await lab.reload()).json()["changed"] == [
        "models.0.chat_template",
        "plugin dist-shout:shout",
    ]
    assert "HI" in await lab.prompt()


SETTINGS = """
class Settings(BaseModel):
    word: str = "calm"

@hookimpl
def llmplug_settings(): return Settings
"""
ECHO = """
@hookimpl
def llmplug_chat_templates(settings):
    source = "{{ messages[0].content }} " + settings.word + "<|im_end|>"
    return [ChatTemplateSpec(name="echo", source=source, fits=lambda _: False)]
"""


async def test_settings_of_a_template_take_effect(open_lab: Open, site: Site) -> None:
    site.install("echo", SETTINGS + ECHO)
    asked = {"models__chat_template": "echo"}
    lab = await open_lab(**asked)
    assert "Hi calm" in await lab.prompt()
    lab.write(plugins__settings={"echo": {"word": "loud"}}, **asked)
    assert (await lab.reload()).json()["changed"] == ["plugins.settings.echo.word"]
    assert "Hi loud" in await lab.prompt()
    lab.write(plugins__settings={"echo": {"word": []}}, **asked)
    assert f"{lab.config}:1: plugins.settings.echo.word: expected text" in await lab.reason()
    assert "Hi loud" in await lab.prompt()


async def test_settings_that_engines_have_read_wait_for_a_restart(
    open_lab: Open, site: Site
) -> None:
    sampler = "@hookimpl\ndef llmplug_samplers(settings):\n    return [sampler('odd')]\n"
    site.install("odd", SETTINGS + sampler)
    lab = await open_lab(plugins__settings={"odd": {"word": "calm"}})
    lab.write(plugins__settings={"odd": {"word": "loud"}})
    for _ in range(2):
        answer = (await lab.reload()).json()
        assert answer["needs_restart"] == ["plugins.settings.odd.word"]
        assert answer["changed"] == []
    lab.write(plugins__settings={"odd": {"wrd": "loud"}})
    assert f"{lab.config}:1: unknown key 'wrd'; did you mean 'word'?" in await lab.reason()


async def test_aliases_come_and_go(open_lab: Open) -> None:
    lab = await open_lab()
    lab.write(models__aliases=["nick"])
    await lab.reload()
    assert (await lab.ask(model="nick")).status_code == 200
    lab.write()
    await lab.reload()
    assert (await lab.ask(model="nick")).status_code == 404


async def test_an_engine_that_comes_up_after_a_reload_is_known(open_lab: Open) -> None:
    engine = FakeEngine()
    lab = await open_lab(engine)
    service = lab.server.service
    ready, service.models[0].ready = service.models[0].ready, None
    await lab.reload()
    assert service.models[0].ready is None
    assert service.find("toy") is service.models[0]
    service.models[0].ready = ready
    await lab.reload()
    assert service.models[0].ready is ready


async def test_a_hangup_reloads(open_lab: Open, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "llmplug.server")
    lab = await open_lab()
    app_module._on_hangup(lab.server.app.ctx.reloader.reload_or_log)
    try:
        lab.write(server__max_waiting_requests=7)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: lab.server.app.ctx.admission.max_waiting == 7)
        reloaded = "reloaded: server.max_waiting_requests"
        await until(lambda: any(each.startswith(reloaded) for each in caplog.messages))
        lab.write(server__max_waiting_requests=-1)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: any("nothing was reloaded" in each for each in caplog.messages))
        assert lab.server.app.ctx.admission.max_waiting == 7
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
