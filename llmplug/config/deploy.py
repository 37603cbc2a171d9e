"""How `llmplug deploy` spreads what a config serves over a cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llmplug.config.values import FieldProblem, Section


class DeployConfig(Section):
    """What `llmplug deploy` makes of this config on a Ray cluster; `llmplug serve` needs none."""

    min_servers: int = Field(1, ge=1, description="Servers that there are at least.")
    max_servers: int = Field(
        1, ge=1, description="Servers that there are at most, each with all of `models`."
    )
    target_requests: float = Field(
        16.0,
        gt=0,
        allow_inf_nan=False,
        description="Requests of a server, those that wait included, beyond which there is to be "
        "one more.",
    )
    target_cache: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of a server's cache of keys and values, in tokens, beyond which there "
        "is to be one more; needs `server.metrics`.",
    )
    upscale_delay_s: float = Field(
        15.0, ge=0, allow_inf_nan=False, description="How long more must be wanted until it comes."
    )
    downscale_delay_s: float = Field(
        300.0, ge=0, allow_inf_nan=False, description="How long fewer must do until one goes."
    )
    look_back_s: float = Field(
        30.0, gt=10, allow_inf_nan=False, description="Over how long load is averaged."
    )
    num_cpus: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Of Ray's, that a server takes of each of its nodes.",
    )
    num_gpus: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="That a server takes of each of its nodes, and all that its models see there; "
        "auto: what `replicas` and `parallel` of its models ask for, where the cluster has GPUs.",
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> DeployConfig:
        if self.min_servers > self.max_servers:
            raise FieldProblem(
                f"{self.min_servers} is more than max_servers, {self.max_servers}",
                "min_servers",
            )
        return self
