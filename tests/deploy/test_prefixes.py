"""Which replica a prompt goes to: equal beginnings to the same one, unless that is too busy."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmplug.deploy.prefixes import BLOCK_BYTES, PrefixTable, find_home, rank, read_prefix

LONG = "All that is known of the case, " * 40
REPLICAS = ("a", "b", "c", "d")


def body(*contents: str, **fields: Any) -> bytes:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return json.dumps({"messages": messages, **fields}).encode()


def common(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    """Blocks from the first on that are equal; after them none is."""
    equal = [a == b for a, b in zip(one, other, strict=False)]
    number = equal.index(False) if False in equal else len(equal)
    assert not any(equal[number:])
    return number


def test_a_conversation_that_goes_on_begins_as_before() -> None:
    first = read_prefix(body(LONG, model="m", temperature=1), b"")
    second = read_prefix(body(LONG, "Yes.", "And?", temperature=0, model="m"), b"")
    assert len(first) > 4
    assert common(first, second) >= len(first) - 1


def test_what_comes_before_a_prompt_in_the_template_tells_prompts_apart() -> None:
    plain = read_prefix(body(LONG), b"")
    for other in ({"model": "n"}, {"tools": [{"type": "function"}]}, {"system": "Be brief."}):
        assert common(plain, read_prefix(body(LONG, **other), b"")) == 0


def test_another_key_has_another_cache() -> None:
    assert common(read_prefix(body(LONG), b"one"), read_prefix(body(LONG), b"two")) == 0


@given(st.binary(max_size=200))
def test_any_body_has_a_prefix_or_none(data: bytes) -> None:
    assert read_prefix(data, b"") == ()


@given(st.text(min_size=1, max_size=2000), st.text(max_size=2000), st.text(max_size=2000))
def test_blocks_are_equal_as_long_as_texts_are(start: str, one: str, other: str) -> None:
    texts = [json.dumps({"prompt": start + end}).encode() for end in (one, other)]
    alike = next(
        (i for i, pair in enumerate(zip(*texts, strict=False)) if len(set(pair)) > 1), None
    )
    prefixes = [read_prefix(text, b"") for text in texts]
    if alike is not None:
        # Behind `{"prompt": `, with what separates the six parts before it.
        num_equal = alike - len(b'{"prompt": ') + 5
        assert common(*prefixes) == min(
            num_equal // BLOCK_BYTES, len(prefixes[0]), len(prefixes[1])
        )


def test_a_table_counts_what_each_replica_has_seen_without_a_gap() -> None:
    table = PrefixTable()
    table.remember((b"1", b"2", b"3"), "a", REPLICAS)
    table.remember((b"1", b"2x"), "b", REPLICAS)
    assert table.count_blocks((b"1", b"2", b"3", b"4")) == {"a": 3, "b": 1}
    assert table.count_blocks((b"2", b"3")) == {"a": 2}
    assert table.count_blocks((b"9", b"1")) == {}


def test_a_table_forgets_replicas_that_are_gone_and_ends_before_beginnings() -> None:
    table = PrefixTable(max_blocks=3)
    table.remember((b"1", b"2", b"3"), "a", REPLICAS)
    table.remember((b"1",), "b", ("b",))
    assert table.count_blocks((b"1",)) == {"b": 1}
    table.remember((b"1", b"x"), "b", ("b",))
    assert len(table) == 3
    assert table.count_blocks((b"1", b"x")) == {"b": 2}
    assert table.count_blocks((b"3",)) == {}  # of the first prompt, its end went first


def test_who_has_seen_a_prompt_is_asked_until_it_has_slack_more_to_do() -> None:
    prefix = (b"1", b"2")
    for ahead in range(12):
        first, *_ = rank({"a": ahead, "b": 0}, prefix, {"a": 2, "b": 0}, slack=8.0)
        share_of_home = 0.25 if find_home(prefix, ("a", "b")) == "b" else 0.0
        assert first == ("a" if ahead <= 8 * (1 - share_of_home) else "b"), ahead


def test_prompts_without_a_prefix_go_where_least_is_to_do() -> None:
    assert rank({"a": 3, "b": 1, "c": 2}, (), {}, slack=8.0) == ["b", "c", "a"]


def test_ingresses_agree_on_a_home_while_a_conversation_grows() -> None:
    prefix = tuple(str(i).encode() for i in range(16))
    homes = [find_home(prefix[:length], REPLICAS) for length in range(8, 16)]
    assert len(set(homes)) == 1


def test_a_replica_that_comes_takes_no_more_than_its_share_of_homes() -> None:
    prefixes = [(str(i).encode(),) for i in range(2000)]
    before = [find_home(each, REPLICAS) for each in prefixes]
    after = [find_home(each, (*REPLICAS, "e")) for each in prefixes]
    moved = Counter(new for old, new in zip(before, after, strict=True) if old != new)
    assert set(moved) == {"e"}
    assert 0.1 < moved["e"] / len(prefixes) < 0.3
    assert min(Counter(before).values()) > 400
