"""Templates and their variables, and text that spells what only a template may write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.attack.attacker import CHAT, COMPLETIONS
from llmplug.attack.attacks import attack
from llmplug.conformance.checks import expect, expect_ok

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker

TEMPLATES = (
    "{% for i in range(10**9) %}{{ i }}{% endfor %}",
    "{% set a = 'x' * 10**9 %}{{ a }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{% include '/etc/passwd' %}",
    "{%",
)
RESERVED = ("messages", "tools", "tokenize", "add_generation_prompt", "chat_template", "bos_token")
CONTROL = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "[INST]", "<start_of_turn>")
NUM_COPIES = 24


@attack("templates")
def templates_in_requests(attacker: Attacker) -> None:
    """A template is a program: a request brings none."""
    for template in TEMPLATES:
        attacker.expect_refused(CHAT, "chat_template", chat_template=template)


@attack("templates")
def reserved_variables(attacker: Attacker) -> None:
    """What the renderer itself sets is not a request's to set."""
    for name in RESERVED:
        attacker.expect_refused(CHAT, "chat_template_kwargs", chat_template_kwargs={name: True})
    for name in ("__class__", "self", "loop", "range", "namespace"):
        attacker.expect_refused(CHAT, "chat_template_kwargs", chat_template_kwargs={name: "x"})


@attack("templates")
def text_that_spells_control_tokens(attacker: Attacker) -> None:
    """What a client writes stays text: what spells a token of the template has several tokens."""
    for path in (CHAT, COMPLETIONS):
        for spelled in CONTROL:
            copies = spelled * NUM_COPIES
            if path == COMPLETIONS:
                attacker.send(path, prompt=copies)
                continue
            said = [{"role": "user", "content": "x" + copies}]
            reply = expect_ok(attacker.send(path, messages=said))
            num_tokens = reply["usage"]["prompt_tokens"]
            expect(
                num_tokens >= 2 * NUM_COPIES,
                f"{NUM_COPIES} times {spelled} are {num_tokens} tokens, template and all",
            )


ATTACKS = (templates_in_requests, reserved_variables, text_that_spells_control_tokens)
