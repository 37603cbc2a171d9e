"""Templates compile and render as in transformers, within a sandbox and its budgets."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from llmplug import CheckpointError, TemplateError
from llmplug.chat import jinja
from llmplug.chat.jinja import Template

MESSAGES = [{"role": "user", "content": "a \"q\" <b> é 's'"}, {"role": "assistant", "content": "b"}]

SOURCES = [
    "{% for m in messages %}\n    {{ m.content }}\n{% endfor %}\n",
    "{%- for m in messages -%} {% if loop.last %}{% break %}{% endif %}{{ m.role }}{%- endfor -%}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "{{ messages | tojson }} {{ messages | tojson(indent=2) }}",
    "{{ messages[0] | tojson(ensure_ascii=True) }}",
    "{{ messages | tojson(separators=(',', ':'), sort_keys=True) }}",
    "{% generation %}{{ messages[1].content }}\n{% endgeneration %}x",
    (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{{ ns.n }}"
    ),
    "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages[0].content) }}",
    "{% set n = namespace({'a': 1}, self=2) %}{% set n.a = n.a + n.self %}{{ n.a }}",
    "{{ 'ab' * 3 }}{{ 2 ** 10 }}{{ (messages[0].content | length) * 2 }}",
    "{{ undefined_name }}|{{ messages[0].nothing }}|{{ strftime_now('%Y') | length }}",
    "{% for k, v in messages[0] | items %}{{ k ~ v }}{% endfor %}{{ dict(a=1) }}",
    "{{ messages[0] | dictsort }}{{ messages[0] | dictsort(true, 'value', reverse=true) }}",
    "{{ messages | map(attribute='content') | sort }}{{ ['b', 'A', 'a'] | sort(true) }}",
    "{{ (messages | sort(attribute='role,content', case_sensitive=true))[0].role }}",
    "{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "{% for x in [1, 2, 3] if x != 2 %}{{ loop.length ~ loop.last ~ x ~ none }}{% endfor %}",
    "{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}{{ 1 ~ 'a' ~ nope }}{% endcall %}",
]


@pytest.mark.parametrize("source", SOURCES)
def test_equals_transformers(source: str) -> None:
    expected, _ = render_jinja_template([MESSAGES], chat_template=source)
    variables: dict[str, Any] = {"messages": MESSAGES, "tools": None, "documents": None}
    assert Template(source).render(variables) == expected[0]


def test_a_refusal_is_in_the_templates_own_words() -> None:
    with pytest.raises(TemplateError, match=r"^Roles must alternate!$"):
        Template("{{ raise_exception('Roles must alternate!') }}").render({})


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[5].content.strip() }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ x.y.z }}",
        "{{ messages | nope(1) if false }}{{ messages[0].content.nope() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_failures_are_the_requests(source: str) -> None:
    with pytest.raises((TemplateError, CheckpointError)):
        Template(source).render({"messages": MESSAGES})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages.append(1) }}",
        "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ namespace(__html__=messages.copy) }}",
        "{{ namespace({'_x': 1}) }}",
        "{% set n = namespace() %}{% set n.__class__ = messages %}{{ n }}",
        "{{ dict.pop(messages[0], 'role') }}",
        "{{ dict.update(messages[0], {'role': 'x'}) or messages[0].role }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    """What is unsafe is an error or nothing at all."""
    try:
        shown = Template(source).render({"messages": MESSAGES})
    except TemplateError:
        shown = ""
    assert shown == ""


GROW = "{% set n = namespace(x=LAST) %}{% for i in range(99) %}{% set n.x = NEXT %}{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 1000000000 }}",
        "{{ 1000000000 * 'a' }}",
        "{{ [1] * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% for i in range(1000000) %}a{% endfor %}",
        GROW.replace("LAST", "'a'").replace("NEXT", "n.x ~ n.x"),
        GROW.replace("LAST", "'a'").replace("NEXT", "n.x + n.x"),
        GROW.replace("LAST", "[1]").replace("NEXT", "n.x + n.x"),
    ],
)
def test_values_stay_small(source: str) -> None:
    with pytest.raises(TemplateError):
        Template(source).render({})


def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "MAX_CHARS", 1000)
    assert len(Template("{% for i in range(10) %}{{ x }}{% endfor %}").render({"x": "a" * 100}))
    with pytest.raises(TemplateError, match="over 1000 characters"):
        Template("{% for i in range(11) %}{{ x }}{% endfor %}").render({"x": "a" * 100})


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "MAX_RENDER_S", -1.0)
    with pytest.raises(TemplateError, match="takes over"):
        Template("{% for i in range(10) %}{{ i }}{% endfor %}").render({})


@pytest.mark.parametrize(
    "source",
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = j %}{% endfor %}"
            "{% endfor %}"
        ),
        (
            "{% set llmplug_deadline = 1e99 %}{% for i in range(99999) %}"
            "{% set llmplug_deadline = 1e99 %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
        ),
        "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(60) }}",
        (
            "{% macro g() %}{% for i in range(99999) %}{% if caller() %}{% endif %}{% endfor %}"
            "{% endmacro %}{% call g() %}{% call g() %}{% endcall %}{% endcall %}"
        ),
        "{% for x in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 60 }}{% endfor %}",
    ],
)
def test_time_is_bounded_where_nothing_is_written(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jinja, "MAX_RENDER_S", 0.05)
    with pytest.raises(TemplateError, match="takes over"):
        Template(source).render({})


@pytest.mark.parametrize(
    ("source", "line"),
    [("{{", 1), ("a\nb\n{% if %}", 3), ("\n{% nope %}", 2), ("{{ a | nope }}", 1)],
)
def test_syntax_errors_name_the_line(source: str, line: int) -> None:
    with pytest.raises(CheckpointError, match=f"line {line}"):
        Template(source)


def test_variables() -> None:
    template = Template("{{ messages }}{{ style }}{% set own = 1 %}{{ own }}{{ range(3) }}")
    assert template.variables - template.reserved == {"messages", "style"}
