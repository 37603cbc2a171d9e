"""Every exception that llmplug raises on purpose.

    LlmplugError
    ├── ConfigError             a config file, flag or override is wrong        CLI: exit 2
    ├── PluginError             a plugin is missing, broken or ambiguous        CLI: exit 2
    ├── SourceError             a model source cannot be found or fetched       CLI: exit 2
    ├── CheckpointError         model files are damaged or not understood       CLI: exit 2
    ├── InvalidRequest          the request is wrong                            HTTP 400
    │   ├── ContextLengthExceeded                                               HTTP 400
    │   ├── UnsupportedParameter    known, but not served                       HTTP 400
    │   ├── ModelNotFound                                                       HTTP 404
    │   ├── TemplateError       the chat template refused the messages          HTTP 400
    │   └── GrammarError        a schema or grammar cannot be followed          HTTP 400
    ├── Overloaded              the queue is full; try again                    HTTP 429
    ├── EngineError             the request failed inside the engine            HTTP 500
    │   └── EngineUnavailable   the engine is loading, restarting or gone       HTTP 503
    └── KernelInputError        an op was called with shapes or dtypes it refuses

A message says what was wrong, where, and what to do.
"""

from __future__ import annotations

import msgspec


class LlmplugError(Exception):
    """The root: catch this to catch all of ours."""


class ConfigError(LlmplugError, ValueError):
    """A config file, a flag or an override is wrong."""


class PluginError(LlmplugError):
    """A plugin that is needed is missing, broken, blocked or ambiguous."""


class SourceError(LlmplugError):
    """A model source cannot be found, fetched or verified."""


class CheckpointError(LlmplugError, ValueError):
    """Model files are damaged, of an unknown format, or of an unknown architecture."""


class InvalidRequest(LlmplugError, ValueError):
    """The request is wrong; `param` and `code` are OpenAI's fields of the error body."""

    code: str | None = "invalid_value"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for a single generated token."""

    code = "context_length_exceeded"


class UnsupportedParameter(InvalidRequest):
    """A parameter that llmplug knows but does not serve for this model or route."""

    code = "unsupported_parameter"


class ModelNotFound(InvalidRequest):
    """No model of this name or alias is served here."""

    code = "model_not_found"


class TemplateError(InvalidRequest):
    """The model's chat template refused the messages, in its own words."""

    code = "invalid_messages"


class GrammarError(InvalidRequest):
    """A schema, regular expression or grammar is malformed, too large, or not supported."""

    code = "invalid_grammar"


class Overloaded(LlmplugError):
    """The queue is full."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineError(LlmplugError):
    """The request failed inside the engine; other requests go on."""


class EngineUnavailable(EngineError):
    """The engine is loading, restarting or gone."""


class KernelInputError(LlmplugError, ValueError):
    """An op was called with shapes, dtypes or devices that it refuses."""


class WireError(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it travels from the engine's process; `from_wire` turns it back."""

    message: str
    kind: str  # name of a class of this file
    param: str | None = None
    code: str | None = None


def to_wire(error: Exception) -> WireError:
    """Describe `error` for the socket; an exception that is not ours becomes an EngineError."""
    kind = type(error).__name__ if isinstance(error, LlmplugError) else EngineError.__name__
    return WireError(
        message=str(error) or type(error).__name__,
        kind=kind,
        param=getattr(error, "param", None),
        code=getattr(error, "code", None),
    )


def from_wire(wire: WireError) -> LlmplugError:
    """Rebuild the exception that `to_wire` described."""
    kind = globals().get(wire.kind)
    if isinstance(kind, type) and issubclass(kind, InvalidRequest):
        return kind(wire.message, param=wire.param, code=wire.code)
    if isinstance(kind, type) and issubclass(kind, LlmplugError) and kind is not Overloaded:
        return kind(wire.message)
    return EngineError(wire.message)
