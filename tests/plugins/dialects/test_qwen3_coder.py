"""The dialect of Qwen3-Coder, Qwen3.5 and those who write so, as their templates write it."""

from __future__ import annotations

import llmplug_qwen3_coder
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

QWEN3_CODER = PluginDialect(llmplug_qwen3_coder, "qwen3_coder", "qwen3_coder")

WRITTEN = """\
<tool_call>
<function=get_weather>
<parameter=city>
Paris
 and its <b>suburbs</b>
</parameter>
<parameter=days>
2
</parameter>
<parameter=place>
{"lat": 48.9}
</parameter>
</function>
</tool_call>
<tool_call>
<function=get_time>
</function>
</tool_call>"""
CALLS = [
    Call(
        "get_weather",
        {"city": "Paris\n and its <b>suburbs</b>", "days": 2, "place": {"lat": 48.9}},
    ),
    Call("get_time", {}),
]


def test_calls() -> None:
    text = f"They ask.\n</think>\n\nI look.\n\n{WRITTEN}"
    expected = Answer("I look.", "They ask.", CALLS)
    assert QWEN3_CODER.read(text, "<|im_start|>assistant\n<think>\n") == expected
    assert QWEN3_CODER.read(WRITTEN, "<|im_start|>assistant\n") == Answer(calls=CALLS)
    assert QWEN3_CODER.read(WRITTEN, "<think>\n\n</think>\n\n") == Answer(calls=CALLS)


def test_words_of_python() -> None:
    written = """<tool_call>
<function=get_weather>
<parameter=city>
True
</parameter>
<parameter=is_metric>
True
</parameter>
</function>
</tool_call>"""
    expected = [Call("get_weather", {"city": "True", "is_metric": True})]
    assert QWEN3_CODER.read(written).calls == expected


def test_calls_without_the_first_tag() -> None:
    written = WRITTEN.split("<tool_call>\n")[1].removesuffix("</tool_call>\n")
    assert QWEN3_CODER.read(f"I look.\n{written}") == Answer("I look.", calls=CALLS[:1])


def test_each_forced_call_has_tags_of_its_own() -> None:
    assert QWEN3_CODER.allows(WRITTEN)
    assert not QWEN3_CODER.allows(WRITTEN, most=1)
    assert not QWEN3_CODER.allows(WRITTEN.replace("\n2\n", "\ntwo\n"))
    assert not QWEN3_CODER.allows(WRITTEN.replace("</tool_call>\n<tool_call>\n", ""))


def test_properties_of_every_dialect() -> None:
    QWEN3_CODER.check()
