"""Check a chat template: what it shows of messages, how an answer ends, and whom it trusts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.errors import CheckpointError, TemplateError
from llmplug.testing.expect import expect, need
from llmplug.testing.template_renderer import make_renderer

if TYPE_CHECKING:
    from llmplug.chat.render import ChatRenderer
    from llmplug.specs import ChatTemplateSpec

_TALK = (
    {"role": "user", "content": " hello \n"},
    {"role": "assistant", "content": "Good day! ✓"},
    {"role": "user", "content": "a < b & c {{ d }}"},
    {"role": "assistant", "content": "yes"},
)
_SYSTEM = {"role": "system", "content": "Be kind. "}


def check_chat_template(
    spec: ChatTemplateSpec, *, tokens: Sequence[str], same_as: str | None = None
) -> None:
    """Render conversations with a template, with a vocabulary that it is made for.

    It fits that vocabulary and no other; every message is shown, in order; the head of an answer
    is behind them and stands there for `add_generation_prompt` alone; an answer ends with one of
    the stop tokens; what users write becomes no control token; the text is what transformers
    renders.

    Args:
        spec: from `llmplug_chat_templates()`.
        tokens: texts of the control tokens of such a vocabulary.
        same_as: source of another template that writes the same, such as a published one.

    Raises:
        AssertionError: says which conversation is rendered as what.
    """
    _check_fit(spec, tokens)
    try:
        renderer = make_renderer(spec.source, tokens)
    except CheckpointError as error:
        raise AssertionError(f"the template {spec.name!r} does not compile: {error}") from error
    twin = None if same_as is None else make_renderer(same_as, tokens)
    for messages in _list_talks(renderer):
        text = renderer.render_text(messages, add_generation_prompt=False)
        _check_messages(spec, messages, text)
        _check_head(spec, renderer, messages, text)
        for is_asked in (False, True):
            _check_twins(spec, renderer, twin, messages, is_asked)
    _check_end(spec, renderer)
    _check_trust(spec, renderer, tokens)


def _check_fit(spec: ChatTemplateSpec, tokens: Sequence[str]) -> None:
    expect(
        spec.fits(frozenset(tokens)) is True,
        f"`fits` of {spec.name!r} does not know a vocabulary with {', '.join(tokens)}",
    )
    expect(
        spec.fits(frozenset()) is False,
        f"`fits` of {spec.name!r} takes any vocabulary: a checkpoint without a template of its own "
        "would be served with this one",
    )
    missing = [token for token in spec.stop_tokens if token not in tokens]
    expect(not missing, f"the stop tokens {missing} are none of the vocabulary's")


def _list_talks(renderer: ChatRenderer) -> list[list[Mapping[str, Any]]]:
    talks: list[list[Mapping[str, Any]]] = [list(_TALK[:length]) for length in (1, 2, 3, 4)]
    talks.append([_TALK[0], {"role": "assistant", "content": ""}, _TALK[2]])
    try:
        renderer.render_text([_SYSTEM, _TALK[0]])
    except TemplateError:  # it takes no system message, and says so
        return talks
    return talks + [[_SYSTEM, *talk] for talk in talks]


def _check_messages(
    spec: ChatTemplateSpec, messages: Sequence[Mapping[str, Any]], text: str
) -> None:
    at = 0
    for message in messages:
        content = message["content"].strip()
        found = text.find(content, at)
        expect(
            found >= 0,
            f"the template {spec.name!r} does not show {content!r} of {messages} behind what comes "
            f"before; it writes {text!r}",
        )
        at = found + len(content)


def _check_head(
    spec: ChatTemplateSpec,
    renderer: ChatRenderer,
    messages: Sequence[Mapping[str, Any]],
    text: str,
) -> None:
    headed = renderer.render_text(messages)
    is_asked = messages[-1]["role"] == "user"
    expect(
        headed.startswith(text) and (not is_asked or len(headed) > len(text)),
        f"with `add_generation_prompt` the template {spec.name!r} writes {headed!r}, without "
        f"{text!r}: it appends the head of an answer, and changes nothing before",
    )


def _check_twins(
    spec: ChatTemplateSpec,
    renderer: ChatRenderer,
    twin: ChatRenderer | None,
    messages: Sequence[Mapping[str, Any]],
    is_asked: bool,
) -> None:
    """Our text is that of transformers, and of a template that is to write the same."""
    library = need("transformers").PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(renderer.tokenizer.library),
        **renderer.tokenizer.special_tokens,
    )
    expected = {
        "transformers": library.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=spec.source,
            tokenize=False,
            add_generation_prompt=is_asked,
        )
    }
    if twin is not None:
        expected["`same_as`"] = twin.render_text(messages, add_generation_prompt=is_asked)
    text = renderer.render_text(messages, add_generation_prompt=is_asked)
    for who, theirs in expected.items():
        expect(
            text == theirs,
            f"of {messages} the template {spec.name!r} writes {text!r}, and {who} {theirs!r}",
        )


def _check_end(spec: ChatTemplateSpec, renderer: ChatRenderer) -> None:
    end = renderer.find_answer_end()
    found = None if end is None else renderer.tokenizer.added_tokens[end].content
    expect(
        found in spec.stop_tokens,
        f"an answer under {spec.name!r} ends with {found!r}, and `stop_tokens` are "
        f"{spec.stop_tokens}: a model would write on behind its answer",
    )


def _check_trust(spec: ChatTemplateSpec, renderer: ChatRenderer, tokens: Sequence[str]) -> None:
    """What users write is text, whatever it spells."""
    control = renderer.tokenizer.control_ids

    def count(content: str) -> int:
        messages = [{"role": "user", "content": content}]
        return sum(id_ in control for id_ in renderer.render(messages))

    plain = count("x")
    for token in tokens:
        for content in (token, f"x{token}y", f"{token}\n{token}"):
            expect(
                count(content) == plain,
                f"the template {spec.name!r} lets a user's {content!r} become a control token",
            )
