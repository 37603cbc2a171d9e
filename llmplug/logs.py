"""What is logged, by every process alike: lines of text, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from types import TracebackType

Format = Literal["text", "json"]

_FIELDS = "fields"  # the attribute of a log record that holds values by name


class TextLines(logging.Formatter):
    """Time, level, logger, message; tracebacks below.

    Args:
        model: whose process this is; "": the server's.
    """

    def __init__(self, model: str = "") -> None:
        name = "%(name)s" + (f" [{model.replace('%', '%%')}]" if model else "")
        super().__init__(f"%(asctime)s %(levelname)s {name} %(message)s")


class JsonLines(logging.Formatter):
    """One JSON object a line, whatever the message and the traceback hold.

    Args:
        model: whose process this is; "": the server's.
    """

    def __init__(self, model: str = "") -> None:
        super().__init__()
        self._model = {"model": model} if model else {}

    def format(self, record: logging.LogRecord) -> str:
        """Write a record; what was given as fields become keys of the object."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._model,
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        # ASCII: no reader of lines stumbles over an odd line end or half a character.
        return json.dumps(line, default=str)


class LineLog(StringIO):
    """A stream for what is written for people: each line is logged."""

    def write(self, text: str) -> int:
        """Log the lines of a text."""
        for line in text.splitlines():
            logging.getLogger("llmplug").info("%s", line)
        return len(text)


class _Lines(logging.StreamHandler[Any]):
    """Ours, to be found again."""


def set_up(level: str, kind: Format = "text", *, model: str = "") -> None:
    """Write what is logged from now on to stderr, once, whichever library logs it.

    Args:
        level: the least serious that is written.
        model: whose process this is; "": the server's.
    """
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _Lines)]:
        root.removeHandler(handler)
    handler = _Lines(sys.stderr)
    handler.setFormatter(JsonLines(model) if kind == "json" else TextLines(model))
    root.addHandler(handler)
    root.setLevel(level.upper())
    if kind == "json":
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_thread


def log_fields(log: logging.Logger, fields: Mapping[str, Any]) -> None:
    """Log values by name: `a=1 b=-` as text; None is a dash there, and null in JSON."""
    if log.isEnabledFor(logging.INFO):
        text = " ".join(f"{name}={_write(value)}" for name, value in fields.items())
        log.info("%s", text, extra={_FIELDS: dict(fields)})


def _write(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    logging.getLogger("llmplug").critical("uncaught", exc_info=(kind, error, traceback))


def _log_thread(args: threading.ExceptHookArgs) -> None:
    error = args.exc_value or args.exc_type()
    name = args.thread.name if args.thread is not None else "?"
    logging.getLogger("llmplug").critical("the thread %s died", name, exc_info=error)
