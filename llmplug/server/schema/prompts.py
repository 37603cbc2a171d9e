"""The prompt of a completions request: text or token ids, one or many."""

from __future__ import annotations

from typing import Any

from llmplug.errors import ContextLengthExceeded, InvalidRequest

# Each prompt is a request of its own to the engine.
MAX_PROMPTS = 128
# Wider than any vocabulary; the engine's limits know the real one.
_MAX_TOKEN_ID = 2**31 - 1
# Longer than any context; each id is looked at in a loop that others wait for.
MAX_PROMPT_IDS = 2**21

Prompt = str | list[int]


def read_prompts(raw: Any, param: str = "prompt", most: int = MAX_PROMPTS) -> list[Prompt]:
    """Take a string, a list of strings, a list of token ids, or a list of such lists.

    Args:
        param: the field.
        most: prompts that it may hold.
    Raises:
        InvalidRequest: anything else, or nothing, or too many; `param` says where.
    """
    if isinstance(raw, str):
        return [raw]
    if not isinstance(raw, list):
        raise InvalidRequest(
            f"'{param}' must be a string, a list of strings, a list of token ids, or a list of "
            "lists of token ids.",
            param=param,
            code="missing_required_parameter" if raw is None else "invalid_type",
        )
    if not raw:
        raise InvalidRequest(f"'{param}' must not be empty.", param=param)
    if _is_int(raw[0]):
        return [_read_ids(raw, param)]
    if len(raw) > most:
        raise InvalidRequest(
            f"'{param}' holds {len(raw)} prompts; at most {most} are allowed.", param=param
        )
    return [_read_one(each, f"{param}[{i}]", raw[0]) for i, each in enumerate(raw)]


def _read_one(raw: Any, where: str, first: Any) -> Prompt:
    if isinstance(first, str) and isinstance(raw, str):
        return raw
    if isinstance(first, list) and isinstance(raw, list):
        return _read_ids(raw, where)
    wanted = "a string" if isinstance(first, str) else "a list of token ids"
    raise InvalidRequest(f"'{where}' must be {wanted}.", param=where, code="invalid_type")


def _read_ids(raw: list[Any], where: str) -> list[int]:
    if not raw:
        raise InvalidRequest(f"'{where}' must not be empty.", param=where)
    if len(raw) > MAX_PROMPT_IDS:
        raise ContextLengthExceeded(
            f"'{where}' holds {len(raw)} token ids; at most {MAX_PROMPT_IDS} are read.",
            param=where,
        )
    for i, each in enumerate(raw):
        if not _is_int(each):
            raise InvalidRequest(
                f"'{where}[{i}]' must be a token id.", param=f"{where}[{i}]", code="invalid_type"
            )
        # Ids past the wire's integers are refused here; the rest the engine's limits check.
        if not 0 <= each <= _MAX_TOKEN_ID:
            raise InvalidRequest(
                f"'{where}[{i}]' is no token id of this model.", param=f"{where}[{i}]"
            )
    return raw


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
