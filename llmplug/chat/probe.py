"""Find out what a chat template takes by trying it on small conversations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

from llmplug.chat.messages import MessageShape
from llmplug.errors import LlmplugError, TemplateError

if TYPE_CHECKING:
    from llmplug.chat.render import ChatRenderer

_WORD = "probe7391"  # nothing that a template would say by itself
_PYTHON = ("'type':", "'q':", "None")
_USER = {"role": "user", "content": _WORD}
_CALL_ID = "call00001"  # nine letters and digits: some templates insist
_LONG_ID = "call_0123456789abcdefghijklmn"  # as OpenAI's are


def find_message_shape(
    render: Callable[[list[dict[str, Any]], list[dict[str, Any]] | None], str],
) -> MessageShape:
    """Render small conversations and see which come out right.

    Args:
        render: (messages, tools) -> text. Raises TemplateError.
    """

    def shows(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> bool:
        try:
            text = render(messages, tools)
        except TemplateError:
            return False
        # A list or map that is printed as Python prints it was not understood.
        return f"call {_WORD}" in text and not any(word in text for word in _PYTHON)

    parts = [{"type": "text", "text": f"call {_WORD}"}]
    takes_parts = shows([{"role": "user", "content": parts}])
    takes_strings = shows([{"role": "user", "content": f"call {_WORD}"}]) or not takes_parts
    content: Any = "hello" if takes_strings else [{"type": "text", "text": "hello"}]
    user = {"role": "user", "content": content}

    def shows_call(empty: dict[str, Any], takes_maps: bool, call_id: str = _CALL_ID) -> bool:
        answer = {"role": "assistant", **empty, "tool_calls": [_make_call(takes_maps, call_id)]}
        # Some templates are for conversations with tools alone.
        return shows([user, answer]) or shows([user, answer], [_make_tool("looks something up")])

    text: Any = "" if takes_strings else [{"type": "text", "text": ""}]
    ways: list[dict[str, Any]] = [{}, {"content": None}, {"content": text}]
    empty, takes_maps = next(
        (combination for combination in product(ways, (True, False)) if shows_call(*combination)),
        ({"content": text}, True),
    )
    takes_calls = shows_call(empty, takes_maps)
    return MessageShape(
        takes_strings=takes_strings,
        takes_parts=takes_parts,
        needs_content=bool(empty),
        takes_null=empty == {"content": None},
        takes_tools=shows([user], [_make_tool(f"call {_WORD}")]),
        takes_tool_calls=takes_calls,
        takes_argument_maps=takes_maps,
        wants_short_ids=takes_calls and not shows_call(empty, takes_maps, _LONG_ID),
    )


def find_answer_end(renderer: ChatRenderer) -> int | None:
    """The first token after an answer's text, whatever it is."""
    conversation = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": _WORD}]
    try:
        whole = renderer.render(conversation, add_generation_prompt=False)
        cut = renderer.render(
            conversation, add_generation_prompt=False, continue_final_message=True
        )
    except LlmplugError:
        return None
    return whole[len(cut)] if len(whole) > len(cut) else None


def _make_call(takes_maps: bool, call_id: str) -> dict[str, Any]:
    arguments: Any = {"q": f"call {_WORD}"} if takes_maps else f'{{"q": "call {_WORD}"}}'
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": "look_up", "arguments": arguments},
    }


def _make_tool(description: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {"q": {"type": "string", "description": "what to look up"}},
                "required": ["q"],
            },
        },
    }
