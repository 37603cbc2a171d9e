from llmplug.testing import check_grammar

from acme_plugin import llmplug_grammars


def test_grammar() -> None:
    (spec,) = llmplug_grammars()
    check_grammar(spec)
