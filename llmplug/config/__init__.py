"""The config: one YAML file, `--set` overrides and nothing else, as frozen pydantic models.

fields.py     what can be configured: every key, its type, its default
operations.py the part of that for whoever runs a server
deploy.py     the part of that for whoever spreads servers over a cluster
values.py     kinds of values: sizes, names, sections
document.py   YAML text -> plain values that know their lines; the only reader of YAML
parallel.py   the part of that for models that several processes compute
shape.py      what a model says of a path: its field, its keys, whether it is secret
plugin_settings.py  what plugins are told, read with their own models
keys.py       API keys, in the config or in a file of their own
complaint.py  what pydantic found -> ConfigError that says file, line, key and what was expected
loading.py    file + overrides + secrets -> Config
explain.py    Config -> rows that say where each value came from, YAML, JSON schema
"""

from llmplug.config.deploy import DeployConfig
from llmplug.config.explain import ExplainRow, dump_yaml, explain, schema
from llmplug.config.fields import (
    BatchesConfig,
    CacheConfig,
    Config,
    KernelsConfig,
    ModelConfig,
    PluginsConfig,
    ResponsesConfig,
    SchedulerConfig,
    ServerConfig,
    TlsConfig,
    WeightsConfig,
)
from llmplug.config.keys import KeyConfig, read_keys
from llmplug.config.loading import from_source, load, parse
from llmplug.config.operations import AdminConfig, FlightRecorderConfig, LogConfig, TracesConfig
from llmplug.config.parallel import ParallelConfig, split_address
from llmplug.config.plugin_settings import PluginSettings

__all__ = [
    "AdminConfig",
    "BatchesConfig",
    "CacheConfig",
    "Config",
    "DeployConfig",
    "ExplainRow",
    "FlightRecorderConfig",
    "KernelsConfig",
    "KeyConfig",
    "LogConfig",
    "ModelConfig",
    "ParallelConfig",
    "PluginSettings",
    "PluginsConfig",
    "ResponsesConfig",
    "SchedulerConfig",
    "ServerConfig",
    "TlsConfig",
    "TracesConfig",
    "WeightsConfig",
    "dump_yaml",
    "explain",
    "from_source",
    "load",
    "parse",
    "read_keys",
    "schema",
    "split_address",
]
