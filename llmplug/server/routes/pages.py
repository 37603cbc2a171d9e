"""Lists that are answered a page at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sanic import Request

    from llmplug.server.responses.input_items import Item

DEFAULT_PAGE_ITEMS = 20  # OpenAI's, as is the next
MAX_PAGE_ITEMS = 100


def cut_page(
    request: Request,
    items: Sequence[Item],
    default: int = DEFAULT_PAGE_ITEMS,
    most: int = MAX_PAGE_ITEMS,
) -> dict[str, Any]:
    """The page of a list that a request asks for, the newest first unless it says otherwise.

    Args:
        items: the oldest first.
        default: items of a page, unless the request says.
        most: that it may say.
    """
    order = request.args.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidRequest("'order' must be asc or desc.", param="order")
    limit = read_number(request, "limit", default, 1, most)
    listed = list(items) if order == "asc" else list(reversed(items))
    after = request.args.get("after")
    if after is not None:
        places = [i for i, item in enumerate(listed) if item["id"] == after]
        if not places:
            raise InvalidRequest(
                f"'after' is {after[:100]!r}, which is the id of no item in this list.",
                param="after",
            )
        listed = listed[places[0] + 1 :]
    page = listed[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(listed) > limit,
    }


def read_number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Read a whole number of the query.

    Raises:
        InvalidRequest: it is none, or out of its range.
    """
    text = request.args.get(name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdigit() and len(text) < 18
    if not is_number or not least <= int(text) <= most:
        raise InvalidRequest(f"'{name}' must be a whole number from {least} to {most}.", param=name)
    return int(text)
