"""MiniCPM 5's dialect, as its template and its documentation write it.

Source: https://github.com/OpenBMB/MiniCPM#with-tool-calling
"""

from __future__ import annotations

import pytest

import llmplug_minicpm
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

MINICPM = PluginDialect(llmplug_minicpm, "minicpm5", "minicpm5")

CALL = '<function name="get_weather"><param name="city">Beijing</param></function>'
LINES = """\
<function name="get_weather">
  <param name="city"><![CDATA[Paris,
<b>France</b></param> & more]]></param>
  <param name="days">2</param>
  <param name="tags">["a", "b"]</param>
</function>
<function name="get_time"></function>"""
READ = Call("get_weather", {"city": "Beijing"})
READ_LINES = [
    Call(
        "get_weather",
        {"city": "Paris,\n<b>France</b></param> & more", "days": 2, "tags": ["a", "b"]},
    ),
    Call("get_time", {}),
]


def test_calls() -> None:
    assert MINICPM.read(CALL) == Answer(calls=[READ])
    text = f"<think>\nThey ask.\n</think>\n\nI look.\n{CALL}\n{LINES}"
    assert MINICPM.read(text) == Answer("I look.", "They ask.", [READ, *READ_LINES])


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("<![CDATA[]]>", ""),
        ("<![CDATA[a]]b]]>", "a]]b"),
        ("<![CDATA", "<![CDATA"),
        ("<b>", "<b>"),
        ("a<![CDATA[b]]>", "a<![CDATA[b]]>"),
    ],
)
def test_quotes(written: str, read: str) -> None:
    (call,) = MINICPM.read(CALL.replace("Beijing", written)).calls
    assert call.arguments == {"city": read}


def test_quotes_round_a_number() -> None:
    text = LINES.replace(">2<", "><![CDATA[2]]><")
    assert MINICPM.read(text).calls[0].arguments["days"] == 2


def test_call_that_breaks_off() -> None:
    for text in (LINES[: LINES.index("</b>")], CALL[: CALL.index("jing")]):
        (call,) = MINICPM.read(text).calls
        assert not call.is_complete
        assert call.arguments in ('{"city": "Paris,\\n<b>France', '{"city": "Bei')


def test_forced_calls() -> None:
    assert MINICPM.allows(CALL)
    assert MINICPM.allows(LINES.replace("  ", ""))
    assert not MINICPM.allows(CALL.replace("Beijing", "<b>"))
    assert not MINICPM.allows(LINES.replace("  ", "").replace(">2<", ">two<"))


def test_properties_of_every_dialect() -> None:
    MINICPM.check()
