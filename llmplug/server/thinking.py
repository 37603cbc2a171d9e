"""What a request asks of a model's thinking: on, off, how much, and for how many tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.chat.channels import begins_in_reasoning
from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.types import ThinkingBudget

if TYPE_CHECKING:
    from collections.abc import Collection

    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.specs import ReasoningParserSpec

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_USUAL_EFFORT = "medium"  # OpenAI's default, which clients send unasked
_SWITCH = "enable_thinking"  # what most templates call it, and clients send to all of them


def choose_template_options(
    effort: str | None,
    options: Mapping[str, Any] | None,
    spec: ReasoningParserSpec | None,
    variables: Collection[str],
) -> dict[str, Any]:
    """Say in the words of a model's template what `reasoning_effort` and its like ask for.

    Args:
        effort: `reasoning_effort`.
        options: `chat_template_kwargs`; `enable_thinking` among them is understood whatever the
            template calls it.
        spec: how the model thinks; None: it does not.
        variables: that the template reads.
    Raises:
        InvalidRequest: a value is unknown, or two contradict each other.
        UnsupportedParameter: what is asked for would change nothing.
    """
    found = dict(options or {})
    if _SWITCH in found and _SWITCH not in variables:
        found = _merge(found, _switch(found.pop(_SWITCH), spec, variables), _SWITCH)
    if effort is None:
        return found
    if effort not in EFFORTS:
        raise InvalidRequest(
            f"'reasoning_effort' must be one of {', '.join(EFFORTS)}.", param="reasoning_effort"
        )
    return _merge(found, _read_effort(effort, spec, variables), "reasoning_effort")


def _merge(options: Mapping[str, Any], more: Mapping[str, Any], param: str) -> dict[str, Any]:
    for name, value in more.items():
        if options.get(name, value) != value:
            raise InvalidRequest(
                f"'{param}' and 'chat_template_kwargs.{name}' contradict each other.", param=param
            )
    return {**options, **more}


def _switch(
    wish: Any, spec: ReasoningParserSpec | None, variables: Collection[str]
) -> dict[str, Any]:
    """Read `enable_thinking` for a template that does not know it."""
    param = f"chat_template_kwargs.{_SWITCH}"
    if not isinstance(wish, bool):
        raise InvalidRequest(f"'{param}' must be true or false.", param=param, code="invalid_type")
    setting = _setting(spec, variables, is_on=wish)
    if setting is not None:
        return setting
    if wish is (spec is not None):
        return {}  # it is so already
    raise _cannot_change(spec, param)


def _read_effort(
    effort: str, spec: ReasoningParserSpec | None, variables: Collection[str]
) -> dict[str, Any]:
    is_on = effort != "none"
    setting = _setting(spec, variables, is_on=is_on)
    variable = spec.effort_variable if spec is not None else None
    if is_on and variable is not None and variable in variables:
        return {**(setting or {}), variable: effort}
    if setting is not None:
        return setting
    is_so_already = effort == _USUAL_EFFORT if spec is not None else not is_on
    if is_so_already:
        return {}
    raise _cannot_change(spec, "reasoning_effort")


def _setting(
    spec: ReasoningParserSpec | None, variables: Collection[str], *, is_on: bool
) -> dict[str, Any] | None:
    """The variables that turn thinking on or off; None: the template reads none."""
    if spec is None:
        return None
    wanted = spec.thinking_on if is_on else spec.thinking_off
    known = {name: value for name, value in wanted.items() if name in variables}
    return known or None


def _cannot_change(spec: ReasoningParserSpec | None, param: str) -> UnsupportedParameter:
    reason = (
        "this model does not think"
        if spec is None
        else "the thinking of this model cannot be changed by a request"
    )
    return UnsupportedParameter(f"'{param}' would change nothing: {reason}.", param=param)


def make_budget(
    max_tokens: int | None,
    spec: ReasoningParserSpec | None,
    tokenizer: Tokenizer,
    prompt_end: str,
) -> ThinkingBudget | None:
    """Make of `thinking_token_budget` what the engine needs to keep it.

    Raises:
        UnsupportedParameter: the model does not think, or opens or closes its thinking with no
            token of its own, so that the engine cannot tell.
    """
    if max_tokens is None:
        return None
    param = "thinking_token_budget"
    if max_tokens < 0:
        raise InvalidRequest(f"'{param}' must not be negative.", param=param)
    if spec is None:
        if max_tokens == 0:
            return None
        raise UnsupportedParameter(
            f"'{param}' would change nothing: this model does not think.", param=param
        )
    syntax = spec.syntax
    ends = _ids_of(tokenizer, (syntax.end, *syntax.ended_by)) if syntax is not None else ()
    if syntax is None or not ends or ends[0] is None:
        raise _cannot_keep(param, "ends")
    starts = tuple(i for i in _ids_of(tokenizer, syntax.start) if i is not None)
    is_open = begins_in_reasoning(syntax, prompt_end)
    if not starts and not is_open:
        raise _cannot_keep(param, "begins")
    return ThinkingBudget(
        max_tokens=max_tokens,
        start_ids=starts,
        end_ids=tuple(i for i in ends if i is not None),
        is_open=is_open,
    )


def _cannot_keep(param: str, what: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"'{param}' is not supported for this model: no token of its own {what} its thinking.",
        param=param,
    )


def _ids_of(tokenizer: Tokenizer, markers: Sequence[str]) -> list[int | None]:
    """The token that each marker is, if it is one; white space round it does not count."""
    encoded = [tokenizer.encode(each.strip(), add_special_tokens=False) for each in markers]
    return [ids[0] if len(ids) == 1 else None for ids in encoded]
