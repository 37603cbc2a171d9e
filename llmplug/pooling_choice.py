"""What a checkpoint is for, and how its hidden states become vectors.

Source: the files that sentence-transformers writes: `modules.json`, a `config.json` per module,
`sentence_bert_config.json`, `config_sentence_transformers.json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.dense_module import check_dense, describe_dense, read_dense
from llmplug.errors import CheckpointError, ConfigError
from llmplug.plan import Choice
from llmplug.pooling import Pooling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmplug.config import ModelConfig
    from llmplug.pooling import DenseLayer, PoolingKind
    from llmplug.specs import Checkpoint, ModelSpec, Task

MODULES = "modules.json"
_MODES: dict[str, PoolingKind] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, PoolingKind] = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}


def choose_task(
    config: ModelConfig, checkpoint: Checkpoint, model: ModelSpec, choices: list[Choice]
) -> Task:
    """Choose what a model is served for.

    Raises:
        ConfigError: the config wants what its architecture is not made for.
    """
    task: Task = model.task
    why = f"what {model.name} is made for"
    if model.task == "generate" and config.task in ("auto", "embed"):
        if config.task == "embed":
            task, why = "embed", "the config says so"
        elif MODULES in checkpoint.json_files:
            task, why = "embed", f"the checkpoint has a {MODULES}"
    elif config.task not in ("auto", model.task):
        raise ConfigError(
            f"task: {config.task} was asked for, but {model.name} is made for {model.task}"
        )
    choices.append(Choice(topic="task", chosen=task, why=why))
    return task


def choose_pooling(
    checkpoint: Checkpoint,
    model: ModelSpec,
    task: Task,
    choices: list[Choice],
    *,
    is_causal: bool,
    width: int,
) -> Pooling | None:
    """Choose how vectors are made; None: the model generates.

    Args:
        is_causal: only the last token has seen the whole text.
        width: of the hidden states.
    Raises:
        CheckpointError: the checkpoint wants something that is not supported.
    """
    if task == "generate":
        return None
    pooling = _read_pooling(checkpoint, model, task, is_causal)
    check_dense(pooling.dense, width, checkpoint.module_tensors if pooling.dense else {})
    choices.append(Choice(topic="pooling", chosen=_describe(pooling), why=pooling.source))
    return pooling


def _describe(pooling: Pooling) -> str:
    steps = [pooling.kind, *(describe_dense(each) for each in pooling.dense)]
    return ", ".join([*steps, "normalised"] if pooling.is_normalised else steps)


def _read_pooling(checkpoint: Checkpoint, model: ModelSpec, task: Task, is_causal: bool) -> Pooling:
    kind: PoolingKind
    if task == "classify":
        kind = "last" if is_causal else "cls"
        if model.classifier_pooling is not None:
            kind = model.classifier_pooling(checkpoint.config)
        return Pooling(
            kind=kind, is_normalised=False, source="as classifiers of this architecture do"
        )
    modules = checkpoint.json_files.get(MODULES)
    if modules is None:
        kind = "last" if is_causal else "mean"
        return Pooling(kind=kind, is_normalised=True, source=f"there is no {MODULES}")
    return _read_modules(modules, checkpoint.json_files)


def _read_modules(modules: Any, files: Mapping[str, Any]) -> Pooling:
    kind: PoolingKind | None = None
    is_normalised = False
    dense: list[DenseLayer] = []
    max_tokens = None
    for name, path in _list_modules(modules):
        config = files.get(_in_folder(path, "config.json"))
        if name == "Transformer":
            max_tokens = _read_max_tokens(files, path)
        elif name == "Pooling":
            kind = _read_mode(config)
        elif name == "Normalize":
            is_normalised = True
        elif name == "Dense":
            if kind is None or is_normalised:
                raise CheckpointError(
                    f"{MODULES}: a Dense module that does not stand between Pooling and Normalize "
                    "is not supported"
                )
            dense.append(read_dense(config, path))
        else:
            raise CheckpointError(f"{MODULES}: modules of type {name} are not supported")
    if kind is None:
        raise CheckpointError(f"{MODULES}: no module pools")
    prompts, default = _read_prompts(files.get("config_sentence_transformers.json") or {})
    return Pooling(
        kind=kind,
        is_normalised=is_normalised,
        dense=tuple(dense),
        max_tokens=max_tokens,
        prompts=prompts,
        default_prompt=default,
        source=MODULES,
    )


def _list_modules(modules: Any) -> list[tuple[str, str]]:
    """Return (class, folder) of each module, in order."""
    try:
        return [(str(each["type"]).rsplit(".", 1)[-1], str(each["path"])) for each in modules]
    except (TypeError, KeyError):
        raise CheckpointError(f"{MODULES}: expected a list of modules with type and path") from None


def _read_mode(config: Any) -> PoolingKind:
    if not isinstance(config, dict):
        raise CheckpointError(f"{MODULES}: the configuration of the pooling module is missing")
    if config.get("pooling_mode"):  # newer files name the one
        asked = config["pooling_mode"]
        modes = [_NAMES.get(each) for each in ([asked] if isinstance(asked, str) else asked)]
    else:
        on = [name for name, value in config.items() if name.startswith("pooling_mode_") and value]
        modes = [_MODES.get(name) for name in on]
    if len(modes) != 1 or modes[0] is None:
        shown = {name: value for name, value in config.items() if "pooling" in name and value}
        raise CheckpointError(
            f"{MODULES}: pooling by {shown} is not supported: one of "
            f"{', '.join(_MODES.values())} is"
        )
    if config.get("include_prompt") is False:
        raise CheckpointError("pooling without the prompt (include_prompt: false) is not supported")
    return modes[0]


def _read_max_tokens(files: Mapping[str, Any], path: str) -> int | None:
    config = files.get(_in_folder(path, "sentence_bert_config.json")) or {}
    max_tokens = config.get("max_seq_length")
    if max_tokens is None or (type(max_tokens) is int and max_tokens > 0):
        return max_tokens
    raise CheckpointError(f"sentence_bert_config.json: max_seq_length is {max_tokens!r}")


def _read_prompts(config: Any) -> tuple[dict[str, str], str | None]:
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    is_map = isinstance(prompts, dict) and all(isinstance(each, str) for each in prompts.values())
    if not is_map or not (default is None or default in prompts):
        raise CheckpointError("config_sentence_transformers.json: its prompts are no texts by name")
    return prompts, default


def _in_folder(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
