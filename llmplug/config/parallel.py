"""How several processes compute one model together, on one machine or on several."""

from __future__ import annotations

from pydantic import Field, model_validator

from llmplug.config.values import FieldProblem, Name, Section

MIN_SECRET_CHARS = 16


class ParallelConfig(Section):
    """How several processes compute one model together."""

    tensor: int = Field(
        1,
        ge=1,
        le=64,
        description="Ranks that each hold a part of every layer: a process each, on GPUs of their "
        "own, or on the CPU with their share of its threads.",
    )
    nodes: int = Field(
        1,
        ge=1,
        le=64,
        description="Machines that the ranks are spread over, as many on each. On the first the "
        "server runs, on the others `llmplug join`.",
    )
    address: Name | None = Field(
        None,
        description="HOST:PORT of the first machine, where the ranks of the others find it. "
        "`llmplug deploy` chooses one itself.",
    )
    secret: str | None = Field(
        None,
        repr=False,
        json_schema_extra={"secret": True},
        description="By which ranks of several machines know each other: 16 characters or more, "
        "at random; `${NAME}` reads it from the environment.",
    )

    @model_validator(mode="after")
    def _check_nodes(self) -> ParallelConfig:
        if self.tensor % self.nodes:
            raise FieldProblem(
                f"{self.tensor} ranks are not divided evenly by {self.nodes} nodes", "nodes"
            )
        if self.address is not None:
            split_address(self.address)
        if self.secret is not None and len(self.secret) < MIN_SECRET_CHARS:
            raise FieldProblem(f"expected {MIN_SECRET_CHARS} characters or more", "secret")
        return self

    @property
    def ranks_per_node(self) -> int:
        """How many processes of it one machine runs."""
        return self.tensor // self.nodes


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; an IPv6 host stands in brackets.

    Raises:
        FieldProblem: it is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        raise FieldProblem("expected HOST:PORT, as 10.0.0.1:29500", "address")
    return host.removeprefix("[").removesuffix("]"), int(port)
