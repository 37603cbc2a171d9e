"""A config -> an application of Ray Serve: an ingress, and servers behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from llmplug.deploy.ingress import Ingress
from llmplug.deploy.needs import count_requests, list_bundles, list_spread_models
from llmplug.deploy.replica import Replica, ReplicaSettings
from llmplug.deploy.router import PrefixRouter
from llmplug.deploy.scaling import ScaleByLoad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray.serve import Application, Deployment

    from llmplug.config import Config, DeployConfig
    from llmplug.deploy.needs import Bundle
    from llmplug.deploy.plugin_lists import PluginList
    from llmplug.deploy.source import ServerSource

NUM_INGRESSES = 2  # Ray spreads them: with one node goes one of them
# Far above what the servers behind it take: they say themselves when it is enough.
INGRESS_REQUESTS = 10_000
END_S = 15.0  # beyond server.drain_s, for a server to end
HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 20.0
START_TRIES = 3  # before a deployment is given up: what fails is hardly ever by chance


def make_application(config: Config, source: ServerSource, plugins: PluginList) -> Application:
    """Describe to Ray what is to run: nothing runs yet."""
    stop_s = config.server.drain_s + END_S
    has_gpus = ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0
    bundles = list_bundles(config, has_gpus=has_gpus)
    servers = serve.deployment(
        name="servers",
        max_ongoing_requests=count_requests(config),
        max_queued_requests=config.server.max_waiting_requests,
        autoscaling_config=make_scaling(config.deploy),
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter,
            request_router_kwargs={"slack": config.deploy.target_requests},
        ),
        **make_placement(bundles),
        **_make_lifetime(stop_s),
    )(Replica)
    ingress: Deployment = serve.deployment(
        name="ingress",
        num_replicas=NUM_INGRESSES,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=INGRESS_REQUESTS,
        **_make_lifetime(stop_s),
    )(serve.ingress()(Ingress))
    spread_models = list_spread_models(config)
    replicas = servers.bind(ReplicaSettings(source, plugins, stop_s, bundles, spread_models))
    return ingress.bind(replicas, config.server.max_body_bytes)


def make_placement(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """Describe what a server takes of its node, or of several at once.

    Several are never one and the same: whoever has room for all ranks on a node says `nodes: 1`.
    """
    (first, *others) = bundles
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": first.num_cpus, "num_gpus": first.num_gpus}
    }
    if others:
        options["placement_group_bundles"] = [
            {"CPU": each.num_cpus, "GPU": each.num_gpus} for each in bundles
        ]
        options["placement_group_strategy"] = "STRICT_SPREAD"
    return options


def make_scaling(config: DeployConfig) -> AutoscalingConfig:
    """Describe how many servers there are to be."""
    return AutoscalingConfig(
        min_replicas=config.min_servers,
        max_replicas=config.max_servers,
        target_ongoing_requests=config.target_requests,
        upscale_delay_s=config.upscale_delay_s,
        downscale_delay_s=config.downscale_delay_s,
        look_back_period_s=config.look_back_s,
        policy=AutoscalingPolicy(
            policy_function=ScaleByLoad,
            policy_kwargs={
                "target_requests": config.target_requests,
                "target_cache": config.target_cache,
            },
        ),
    )


def _make_lifetime(stop_s: float) -> dict[str, Any]:
    """How a replica is watched, replaced and let go of: new ones first, then the old."""
    return {
        "graceful_shutdown_timeout_s": stop_s,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "max_constructor_retry_count": START_TRIES,
        "max_surge_percent": 100,
    }
