from llmplug.testing import check_chat_template

from acme_plugin import llmplug_chat_templates


def test_chat_template() -> None:
    (spec,) = llmplug_chat_templates()
    check_chat_template(spec, tokens=["<|turn>", "<turn|>"])
