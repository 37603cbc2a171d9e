"""Plugins that differ between nodes are named, with the nodes."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from llmplug.deploy.plugin_lists import check_here, compare, list_plugins
from llmplug.errors import PluginError


def test_all_that_is_installed_is_listed() -> None:
    names = {point.name for point in entry_points(group="llmplug")}
    assert names <= {name.partition(":")[2] for name in list_plugins()}


def test_equal_nodes_differ_in_nothing() -> None:
    assert compare({node: list_plugins() for node in ("one", "two")}) == []
    assert compare({}) == []


def test_what_is_missing_or_of_another_version_is_named_with_its_nodes() -> None:
    lists = {
        "one": {"mine:mine": "1.0", "theirs:theirs": "2.0"},
        "two": {"theirs:theirs": "2.1"},
        "three": {"mine:mine": "1.0", "theirs:theirs": "2.0"},
    }
    assert compare(lists) == [
        "mine:mine: 1.0 on one, three; missing on two",
        "theirs:theirs: 2.0 on one, three; 2.1 on two",
    ]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"acme-words:words": "1.2"}, "acme-words:words: 1.2 on the deploying machine; missing on"),
        ({"llmplug": "0.0.1"}, "llmplug: 0.0.1 on the deploying machine; "),
    ],
)
def test_a_node_with_other_plugins_says_which(other: dict[str, str], said: str) -> None:
    check_here(list_plugins())
    with pytest.raises(PluginError, match=f"^plugins differ: {said}.*here$"):
        check_here(list_plugins() | other)
