"""What whoever runs a server looks at: the admin listener, the log, the recorder, traces."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmplug.config.values import Name, Section


class AdminConfig(Section):
    """The admin listener: health, metrics, reload, stacks; a thread of its own."""

    host: Name = Field("127.0.0.1", description="Address to listen on.")
    port: int | None = Field(None, ge=0, le=65535, description="TCP port; null: there is none.")


class FlightRecorderConfig(Section):
    """What the last requests looked like, without what they said, for when an engine crashes."""

    requests: int = Field(
        1000, ge=0, le=100_000, description="Of the last requests so many are known; 0: none."
    )
    path: Name = Field(
        "auto",
        description="A folder where a file is written when an engine dies; auto: llmplug/flight "
        "where programs keep their state; none: nothing is written.",
    )
    files: int = Field(5, ge=1, le=1000, description="That are kept there; the oldest goes first.")


class TracesConfig(Section):
    """Spans of requests, sent to a collector of OpenTelemetry; needs `llmplug[otel]`."""

    endpoint: Name = Field(
        description="Where they go, by OTLP over HTTP: http://127.0.0.1:4318/v1/traces."
    )
    headers: tuple[str, ...] = Field(
        (),
        repr=False,
        json_schema_extra={"secret": True},
        description="Headers to send along, each `name: value`; `${NAME}` reads from the "
        "environment.",
    )
    share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Of the requests whose callers do not say whether they are traced.",
    )
    service: Name = Field("llmplug", description="What the server is called there.")


class LogConfig(Section):
    """What is logged, on stderr, by the server and by engines."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least serious message that is written."
    )
    format: Literal["text", "json"] = Field(
        "text", description="Lines of text, or one JSON object a line."
    )
    requests: bool = Field(
        True, description="Whether each request gets a line; probes and scrapes never do."
    )
