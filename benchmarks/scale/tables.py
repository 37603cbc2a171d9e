"""Rows of studies as tables for docs/scale.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.results import pick
from benchmarks.table import render, show, show_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.results import Line

    Columns = dict[str, Callable[[Line], str]]

USERS = (10, 100, 1000, 10_000, 100_000)


def _write(key: str) -> Callable[[Line], str]:
    return lambda line: _show(line[key])


def _show(value: Any) -> str:
    if value is None:
        return "always 10"
    return show(value) if isinstance(value, int | float) else str(value)


def _list_users(users: int) -> Callable[[Line], str]:
    return lambda line: f"{line[f'users_{users}']}"


OUTCOME: Columns = {
    "given up": lambda line: show_percent(line["given_up"] / line["asked"]),
    "cached": lambda line: show_percent(line["cached_share"]),
    "TTFT p50, s": _write("ttft_p50_s"),
    "TTFT p99, s": _write("ttft_p99_s"),
    "answer p50, s": _write("whole_p50_s"),
}
TABLES: dict[str, tuple[str, Columns]] = {
    "capacity": (
        "Servers for so many users",
        {
            "machine": _write("machine"),
            "profile": _write("profile"),
            "cached": lambda line: show_percent(line["cached_share"]),
            "sequences": _write("sequences"),
            "ms a token": _write("token_ms"),
            "requests/s": _write("requests_per_s"),
            **{f"{users:,} users".replace(",", " "): _list_users(users) for users in USERS},
        },
    ),
    "http": (
        "The HTTP process (measured)",
        {
            "server": _write("server"),
            "clients": _write("clients"),
            "tokens/s": _write("tokens_per_s"),
            "of two cores": lambda line: show_percent(line["http_share"]),
            "tokens a second of a core": _write("tokens_per_core_s"),
        },
    ),
    "routing": (
        "Routing among 8 servers",
        {
            "machine": _write("machine"),
            "load": _write("load"),
            "router": _write("router"),
            "busy": lambda line: show_percent(min(1.0, line["busy"])),
            **OUTCOME,
        },
    ),
    "admission": (
        "Bounds, 4 servers",
        {
            "at most": _write("bounds"),
            "load": _write("load"),
            "asked/s": _write("asked_per_s"),
            **OUTCOME,
        },
    ),
    "size": (
        "From one server to a thousand",
        {"servers": _write("servers"), "router": _write("router"), **OUTCOME},
    ),
    "stale": (
        "Loads known late, 40 servers",
        {"s late": _write("stale_s"), "router": _write("router"), **OUTCOME},
    ),
    "autoscaling": (
        "Three hours, the second with eight times the users",
        {
            "s to start": _write("start_s"),
            "most servers": _write("most"),
            "server hours": _write("server_hours"),
            **OUTCOME,
        },
    ),
}


def render_all(lines: Sequence[Line]) -> str:
    """Return all tables that have rows, with their titles, and what the validation found."""
    tables = [
        f"{title}\n\n{render(columns, rows)}"
        for name, (title, columns) in TABLES.items()
        if (rows := pick(lines, name))
    ]
    tables += [_render_validation(line) for line in pick(lines, "validation")]
    return "\n\n".join(tables)


def _render_validation(line: Line) -> str:
    compared = {name: value for name, value in line.items() if isinstance(value, dict)}
    rows = [{"name": name, **value} for name, value in compared.items() if "simulated" in value]
    columns: Columns = {
        "": _write("name"),
        "real": _write("real"),
        "simulated": _write("simulated"),
        "error": lambda row: show_percent(row["error"]),
    }
    title = f"A real server and a simulated one, {line['requests']} requests, load {line['load']}"
    return f"{title}\n\n{render(columns, rows)}"
