"""Forms of answers that are malformed, or that explode when they are compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.attack.attacker import CHAT, COMPLETIONS
from llmplug.attack.attacks import attack
from llmplug.conformance.checks import expect

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker

# A form may be tried for a while, in a process of its own, before it is refused.
PATIENCE = 4
NUM_UNIQUE = 24
NO_PATTERNS = ("(", "[", "a{2,1}", "*", "(?P<a>", "\\", "(?(1)a)", "[z-a]", "\\p{Nothing}")
BOMBS = (
    "(((a+)+)+b?){9,99999}(?=c)",
    "((([a-z]{1,1000}c?){1,1000}d?){1,1000}e?){1,1000}",
    "([a-z]+ ?[0-9]{1,9}){1000000}",
    "(a|aa|aaa|aaaa){5000}b",
    "(" * 5000 + "a" + ")" * 5000,
    "|".join(f"word{i}" for i in range(50_000)),
    "[^\\x00-\\U0010ffff]",
    "(?=a)b",
    "(a)\\1{100}",
)
NO_SCHEMAS: tuple[Any, ...] = (
    {"type": "no such type"},
    {"type": 5},
    {"type": "object", "properties": 5},
    {"type": "object", "required": "x"},
    {"type": "string", "pattern": "("},
    {"enum": []},
    {"$ref": "#/$defs/nowhere"},
    {"$ref": "http://127.0.0.1:1/schema.json"},
    {"$ref": "file:///etc/passwd"},
    5,
    "text",
    [],
)


def _nest(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"oneOf": [schema, {"type": "array", "items": schema}]}
    return schema


EXPLOSIONS: tuple[Any, ...] = (
    {"$ref": "#"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(10_000)}},
    {"enum": [f"value {i}" for i in range(100_000)]},
    {"type": "array", "minItems": 10**9, "items": {"type": "string"}},
    {"type": "string", "minLength": 10**9},
    {"type": "string", "pattern": BOMBS[0]},
    {"type": "integer", "multipleOf": 1e-300},
    {"allOf": [{"type": "object", "properties": {f"a{i}": {}}} for i in range(5000)]},
    {"not": {"not": {"not": {"type": "string"}}}},
)


@attack("forms")
def patterns_that_are_none(attacker: Attacker) -> None:
    """A malformed pattern is refused by name, and ends nobody."""
    for pattern in NO_PATTERNS:
        form = {"regex": pattern}
        attacker.patient(PATIENCE).expect_refused(
            COMPLETIONS, "structured_outputs", structured_outputs=form
        )


@attack("forms")
def patterns_that_explode(attacker: Attacker) -> None:
    """A pattern that has no end of states is refused in time, or does no harm."""
    for pattern in BOMBS:
        attacker.patient(PATIENCE).send(COMPLETIONS, structured_outputs={"regex": pattern})


@attack("forms")
def schemas_that_are_none(attacker: Attacker) -> None:
    """A malformed schema is refused by name; nothing that it refers to is fetched."""
    for schema in NO_SCHEMAS:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        attacker.patient(PATIENCE).expect_refused(CHAT, "response_format", response_format=form)


@attack("forms")
def schemas_that_explode(attacker: Attacker) -> None:
    """A schema that grows without end is refused in time, or does no harm."""
    for schema in (*EXPLOSIONS, _nest(12)):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        attacker.patient(PATIENCE).send(CHAT, response_format=form)


@attack("forms")
def tools(attacker: Attacker) -> None:
    """Tools whose parameters are no schema are refused, or do no harm."""
    for parameters in (*NO_SCHEMAS, *EXPLOSIONS[:4], _nest(12)):
        function = {"name": "f", "parameters": parameters}
        loose = {"type": "function", "function": function}
        strict = {"type": "function", "function": {**function, "strict": True}}
        attacker.patient(PATIENCE).send(CHAT, tools=[loose])
        attacker.patient(PATIENCE).send(CHAT, tools=[strict], tool_choice="required")
    for none in (None, 5, {}, {"type": "function"}, {"type": "function", "function": {}}):
        attacker.expect_refused(CHAT, "tools", tools=[none])


@attack("forms")
def a_good_one_after_a_bad_one(attacker: Attacker) -> None:
    """A refused form leaves the next one alone, and a form that was good stays good."""
    good = {"choice": ["yes"]}
    patient = attacker.patient(PATIENCE)
    for bad in ({"regex": "("}, {"json": {"$ref": "#"}}, {"grammar": "start: ("}):
        for form in (good, bad, good):
            answer = patient.send(COMPLETIONS, structured_outputs=form, max_tokens=16)
            if form is good:
                expect(answer.status == 200, f"the good form is refused: {answer.body[:80]!r}")
                said = answer.json()["choices"][0]["text"]
                expect(said == "yes", f"the good form says {said!r}")


@attack("forms")
def ever_new_schemas(attacker: Attacker) -> None:
    """Schemas that nobody has sent before fill no memory."""
    for i in range(NUM_UNIQUE):
        properties = {f"field_{i}_{j}": {"type": "string"} for j in range(20)}
        form = {"json": {"type": "object", "properties": properties}}
        attacker.patient(PATIENCE).send(COMPLETIONS, structured_outputs=form)


ATTACKS = (
    patterns_that_are_none,
    patterns_that_explode,
    schemas_that_are_none,
    schemas_that_explode,
    tools,
    a_good_one_after_a_bad_one,
    ever_new_schemas,
)
