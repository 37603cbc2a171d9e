"""A config -> an application of Ray Serve: an ingress, and servers behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from llmplug.deploy.ingress import Ingress
from llmplug.deploy.needs import count_gpus, count_requests
from llmplug.deploy.replica import Replica, ReplicaSettings
from llmplug.deploy.router import PrefixRouter
from llmplug.deploy.scaling import ScaleByLoad

if TYPE_CHECKING:
    from ray.serve import Application, Deployment

    from llmplug.config import Config, DeployConfig
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
    num_gpus = count_gpus(config, has_gpus=has_gpus)
    servers = serve.deployment(
        name="servers",
        ray_actor_options={"num_cpus": config.deploy.num_cpus, "num_gpus": num_gpus},
        max_ongoing_requests=count_requests(config),
        max_queued_requests=config.server.max_waiting_requests,
        autoscaling_config=make_scaling(config.deploy),
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter,
            request_router_kwargs={"slack": config.deploy.target_requests},
        ),
        **_make_lifetime(stop_s),
    )(Replica)
    ingress: Deployment = serve.deployment(
        name="ingress",
        num_replicas=NUM_INGRESSES,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=INGRESS_REQUESTS,
        **_make_lifetime(stop_s),
    )(serve.ingress()(Ingress))
    replicas = servers.bind(ReplicaSettings(source, plugins, stop_s))
    return ingress.bind(replicas, config.server.max_body_bytes)


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
