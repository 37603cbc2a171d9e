"""What a model answers with where a request does not say: sampling, template, dialect, grammars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import EOS_ID

from llmplug import CheckpointError, ConfigError, PluginError
from llmplug.assemble import load_registry, plan_model
from llmplug.config import from_source
from tests.plans.tiny_plans import choice_of, ignore_progress, make_plan


def test_the_grammar_backend_is_the_first_or_the_one_that_is_named(made: Path) -> None:
    assert choice_of(make_plan(made), "structured output") == ("llguidance", "installed")
    none = make_plan(made, "grammar_backend=none")
    assert choice_of(none, "structured output")[0] == "none"
    with pytest.raises(PluginError, match=r"'llguidanse'.*llguidance"):
        make_plan(made, "grammar_backend=llguidanse")


def write_generation(folder: Path, values: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps(values))


def test_defaults_of_the_checkpoint(folder: Path) -> None:
    write_generation(folder, {"temperature": 0.6, "top_k": 20, "top_p": None, "max_length": 9})
    plan = make_plan(folder)
    assert plan.settings.sampling_defaults == {"temperature": 0.6, "top_k": 20}
    assert choice_of(plan, "sampling defaults")[0] == "temperature=0.6, top_k=20"
    none = make_plan(folder, "generation_config=none")
    assert none.settings.sampling_defaults == {}


def test_defaults_of_a_file(folder: Path, tmp_path: Path) -> None:
    write_generation(folder, {"temperature": 0.6})
    path = tmp_path / "mine.json"
    path.write_text('{"top_p": 0.5}')
    plan = make_plan(folder, f"generation_config={path}")
    assert plan.settings.sampling_defaults == {"top_p": 0.5}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"do_sample": False}, {"temperature": 0.0}),
        ({"do_sample": False, "temperature": 0.3}, {"temperature": 0.3}),
        ({"do_sample": True}, {}),
    ],
)
def test_a_greedy_checkpoint_is_greedy(folder: Path, values: Any, expected: Any) -> None:
    write_generation(folder, values)
    assert make_plan(folder).settings.sampling_defaults == expected


@pytest.mark.parametrize("value", ["0.6", True, [1]])
def test_defaults_that_are_no_numbers_are_refused(folder: Path, value: Any) -> None:
    write_generation(folder, {"temperature": value})
    with pytest.raises(CheckpointError, match="temperature"):
        make_plan(folder)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[1]", "no JSON object")])
def test_a_file_of_defaults_that_cannot_be_read_is_refused(
    made: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        make_plan(made, f"generation_config={path}")


@pytest.mark.parametrize("generation_config", ["auto", "none"])
def test_end_ids_come_together_and_no_setting_drops_them(
    folder: Path, generation_config: str
) -> None:
    write_generation(folder, {"eos_token_id": [7, 9]})
    plan = make_plan(folder, f"generation_config={generation_config}")
    assert plan.settings.eos_token_ids >= {7, 9, EOS_ID}


# --- chat template ------------------------------------------------------------------------------
def drop_template(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')


HI: list[Any] = [{"role": "user", "content": "Hi"}]


def test_the_template_of_the_checkpoint_then_one_that_fits_then_none(folder: Path) -> None:
    own = make_plan(folder)
    assert own.renderer is not None
    drop_template(folder)
    fitting = make_plan(folder)
    assert fitting.renderer is not None
    assert choice_of(fitting, "chat template")[0] == "chatml"
    assert "vocabulary fits" in choice_of(fitting, "chat template")[1]
    config = from_source(str(folder), sets=["plugins.block=[chatml]", "models.0.device=cpu",
                                            "models.0.cache.memory=4MiB"])  # fmt: skip
    plan = plan_model(config.models[0], load_registry(config), ignore_progress)
    assert plan.renderer is None
    assert choice_of(plan, "chat template")[0] == "none"
    assert EOS_ID in plan.settings.eos_token_ids


def test_the_template_of_the_config(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    plan = make_plan(folder, f"chat_template={path}")
    assert plan.renderer is not None
    assert plan.renderer.render_text(HI) == "[Hi]"
    named = make_plan(folder, "chat_template=chatml")
    assert named.renderer is not None
    assert named.renderer.render_text(HI) != "[Hi]"
    assert "plugin " in choice_of(named, "chat template")[1]


TOOLS = """\
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ (m.content or '') }}
    {%- for call in m.tool_calls or [] %}
        {{- '<tool_call>' ~ call.function | tojson ~ '</tool_call>' }}
    {%- endfor %}{{ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}{# "arguments" #}"""


def test_the_dialect_is_found_out_from_the_template(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tools.jinja"
    path.write_text(TOOLS)
    plan = make_plan(folder, f"chat_template={path}")
    assert plan.dialect.tools is not None
    assert plan.dialect.problems == ()
    chosen, why = choice_of(plan, "dialect")
    assert chosen == "calls hermes, thinking none"
    assert why == (
        "calls: hermes, as its template writes <tool_call>, arguments; "
        "what the template writes is read back; thinking: none fits"
    )
    unknown = make_plan(folder, "chat_template=chatml")
    assert choice_of(unknown, "dialect")[0] == "calls generic, thinking none"


def test_a_checkpoint_may_have_a_template_for_tools(folder: Path) -> None:
    settings = folder / "tokenizer_config.json"
    named = [
        {"name": "default", "template": "{{ messages[-1].content }}"},
        {"name": "tool_use", "template": TOOLS},
    ]
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": named}))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    plan = make_plan(folder)
    assert choice_of(plan, "chat template")[0] == "the checkpoint's own, and tool_use"
    assert choice_of(plan, "dialect")[0] == "calls hermes, thinking none"
    assert plan.dialect.problems == ()
    assert plan.renderer is not None
    assert plan.renderer.render_text(HI) == "Hi"
    tools: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert '"name": "f"' in plan.renderer.for_tools.render_text(HI, tools=tools)


def test_the_dialect_of_the_config(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tools.jinja"
    path.write_text(TOOLS)
    sets = (f"chat_template={path}", "tool_parser=glm", "reasoning_parser=glm")
    plan = make_plan(folder, *sets)
    assert choice_of(plan, "dialect")[0] == "calls glm, thinking glm"
    (problem,) = plan.dialect.problems
    assert choice_of(plan, "warning") == ("dialect", problem)
    assert problem.startswith("the dialect 'glm' does not read what the template writes: ")
    none = make_plan(folder, f"chat_template={path}", "tool_parser=none", "reasoning_parser=none")
    assert (none.dialect.tools, none.dialect.reasoning) == (None, None)
    for key in ("tool_parser", "reasoning_parser"):
        with pytest.raises(PluginError, match="hermes"):
            make_plan(folder, f"{key}=hermse")
