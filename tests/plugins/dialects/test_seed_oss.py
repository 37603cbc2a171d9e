"""Seed-OSS's dialect, as its template writes it."""

from __future__ import annotations

import llmplug_seed_oss
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

SEED = PluginDialect(llmplug_seed_oss, "seed_oss", "seed_oss")

CALLS = """\
<seed:tool_call>
<function=get_weather>
<parameter=city>Paris,
France</parameter>
<parameter=days>2</parameter>
</function>
</seed:tool_call>"""
READ = Call("get_weather", {"city": "Paris,\nFrance", "days": 2})


def test_calls() -> None:
    text = f"<seed:think>They ask.</seed:think>\nI look.\n{CALLS}"
    assert SEED.read(text) == Answer("I look.", "They ask.", [READ])
    assert SEED.read(f"{CALLS}\n{CALLS}") == Answer(calls=[READ, READ])


def test_words_of_python() -> None:
    text = CALLS.replace("<parameter=days>2<", "<parameter=is_metric>True<")
    assert SEED.read(text).calls[0].arguments["is_metric"] is True


def test_values_of_python() -> None:
    """The template prints lists and objects as Python does."""
    tags, place = ["a, b", 'it\'s "c"'], {"lat": 48.9}
    text = CALLS.replace(
        "<parameter=days>2<",
        f"<parameter=tags>{tags}</parameter>\n<parameter=place>{place}<",
    )
    (call,) = SEED.read(text).calls
    assert (call.arguments["tags"], call.arguments["place"]) == (tags, place)
    (call,) = SEED.read(CALLS.replace("Paris,\nFrance", "['a']")).calls
    assert call.arguments["city"] == "['a']"


def test_thinking_without_budget() -> None:
    prompt_end = "<seed:bos>assistant\n<seed:think><seed:cot_budget_reflect>"
    answer = SEED.read("None.</seed:cot_budget_reflect></seed:think>Hello!", prompt_end)
    assert answer == Answer("Hello!", "None.</seed:cot_budget_reflect>")


def test_forced_calls() -> None:
    assert SEED.allows(CALLS)
    assert SEED.allows(f"{CALLS}\n{CALLS}")
    assert not SEED.allows(CALLS.replace(">2<", ">two<"))


def test_properties_of_every_dialect() -> None:
    SEED.check()
