"""What a checkpoint is served for and how it pools: each choice, and each refusal."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from llmplug import CheckpointError, ConfigError, ModelSpec, Pooling
from llmplug.config import ModelConfig
from llmplug.plan import Choice
from llmplug.pooling import DenseLayer
from llmplug.pooling_choice import choose_pooling, choose_task

FILES: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
        {"idx": 2, "name": "2", "path": "2_N", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True},
    "sentence_bert_config.json": {"max_seq_length": 77, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "prompts": {"query": "query: ", "document": ""},
        "default_prompt_name": "query",
    },
}
MODULES = FILES["modules.json"]


@dataclass
class Shaped:
    """As much of a tensor as these choices read."""

    shape: tuple[int, ...]


@dataclass
class Files:
    """As much of a checkpoint as these choices read."""

    json_files: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    module_tensors: dict[str, dict[str, Shaped]] = field(default_factory=dict)


def refuse(config: Any) -> Any:
    raise AssertionError("these choices build nothing")


def make_spec(task: Any) -> ModelSpec:
    return ModelSpec(
        name="toy", architectures=("Toy",), describe=refuse, weights=refuse, build=refuse, task=task
    )


def pool(
    files: dict[str, Any], *, is_causal: bool = False, tensors: Any = None, choices: Any = None
) -> Pooling:
    spec = make_spec("generate" if is_causal else "embed")
    opened = Files(files, module_tensors=tensors or {})
    told: list[Choice] = [] if choices is None else choices
    found = choose_pooling(opened, spec, "embed", told, is_causal=is_causal, width=8)
    assert found is not None
    return found


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**copy.deepcopy(FILES), name: value}


# --- tasks --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("made_for", "asked", "has_modules", "expected"),
    [
        ("generate", "auto", False, "generate"),
        ("generate", "auto", True, "embed"),
        ("generate", "generate", True, "generate"),
        ("generate", "embed", False, "embed"),
        ("embed", "auto", False, "embed"),
        ("embed", "embed", True, "embed"),
        ("classify", "auto", True, "classify"),
    ],
)
def test_tasks(made_for: Any, asked: str, has_modules: bool, expected: str) -> None:
    config = ModelConfig.model_validate({"source": "x", "task": asked})
    choices: list[Choice] = []
    files = Files(FILES if has_modules else {})
    assert choose_task(config, files, make_spec(made_for), choices) == expected
    assert [(choice.topic, choice.chosen) for choice in choices] == [("task", expected)]


@pytest.mark.parametrize(
    ("made_for", "asked"),
    [("embed", "generate"), ("embed", "classify"), ("classify", "embed"), ("generate", "classify")],
)
def test_an_architecture_is_not_served_for_another_task(made_for: Any, asked: str) -> None:
    config = ModelConfig.model_validate({"source": "x", "task": asked})
    with pytest.raises(ConfigError, match=f"{asked} was asked for.*made for {made_for}"):
        choose_task(config, Files(), make_spec(made_for), [])


# --- pooling ------------------------------------------------------------------------------------
def test_what_the_files_of_sentence_transformers_say() -> None:
    assert pool(FILES) == Pooling(
        kind="mean",
        is_normalised=True,
        max_tokens=77,
        prompts={"query": "query: ", "document": ""},
        default_prompt="query",
        source="modules.json",
    )


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_modes(config: dict[str, Any], kind: str) -> None:
    assert pool(changed("1_Pooling/config.json", config)).kind == kind


def test_what_no_file_says() -> None:
    assert (pool({}).kind, pool({}).is_normalised, pool({}).max_tokens) == ("mean", True, None)
    assert pool({}, is_causal=True).kind == "last"
    name = "1_Pooling/config.json"
    bare = pool({"modules.json": MODULES[:2], name: FILES[name]})
    assert (bare.is_normalised, bare.max_tokens, bare.prompts) == (False, None, {})


@pytest.mark.parametrize(
    ("is_causal", "own", "kind"),
    [(False, None, "cls"), (True, None, "last"), (False, "mean", "mean"), (True, "mean", "mean")],
)
def test_classifiers_pool_as_their_architecture_does(is_causal: bool, own: Any, kind: str) -> None:
    spec = make_spec("classify")
    if own is not None:
        spec = replace(spec, classifier_pooling=lambda config: config["pooling"])
    files = Files(FILES, {"pooling": own})
    found = choose_pooling(files, spec, "classify", [], is_causal=is_causal, width=8)
    assert found is not None
    assert (found.kind, found.is_normalised) == (kind, False)


def test_a_model_that_generates_pools_nothing() -> None:
    choices: list[Choice] = []
    spec = make_spec("generate")
    assert choose_pooling(Files(FILES), spec, "generate", choices, is_causal=True, width=8) is None
    assert choices == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("modules.json", {"0": {}}, "list of modules"),
        ("modules.json", [{"path": ""}], "list of modules"),
        ("modules.json", MODULES[:1], "no module pools"),
        ("modules.json", [*MODULES, {"type": "x.Wobble", "path": ""}], "Wobble"),
        ("1_Pooling/config.json", None, "is missing"),
        ("1_Pooling/config.json", {}, "is not supported"),
        ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "is not supported",
        ),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}, "is not supported"),
        ("1_Pooling/config.json", {"pooling_mode": "mean_sqrt_len"}, "mean_sqrt_len"),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}, "prompt"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length is 0"),
        ("sentence_bert_config.json", {"max_seq_length": "512"}, "max_seq_length is '512'"),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}, "prompts"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "prompts"),
    ],
)
def test_what_cannot_be_served_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        pool(changed(name, value))


# --- dense layers -------------------------------------------------------------------------------
DENSE = {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
TANH = "torch.nn.modules.activation.Tanh"
DENSE_CONFIG = {"in_features": 8, "out_features": 3, "bias": True, "activation_function": TANH}
DENSE_FILES: dict[str, Any] = {
    **FILES,
    "modules.json": [*MODULES[:2], DENSE, MODULES[2]],
    "2_Dense/config.json": DENSE_CONFIG,
}
TENSORS = {"2_Dense": {"linear.weight": Shaped((3, 8)), "linear.bias": Shaped((3,))}}


def test_dense_layers_are_read_and_told() -> None:
    choices: list[Choice] = []
    found = pool(DENSE_FILES, tensors=TENSORS, choices=choices)
    (layer,) = found.dense
    assert layer == DenseLayer(
        folder="2_Dense", num_inputs=8, num_outputs=3, has_bias=True, activation="tanh"
    )
    assert found.width == 3
    assert [choice.chosen for choice in choices] == ["mean, 8 to 3 by tanh, normalised"]
    plain = {**DENSE_CONFIG, "activation_function": "torch.nn.modules.linear.Identity"}
    pool({**DENSE_FILES, "2_Dense/config.json": plain}, tensors=TENSORS, choices=choices)
    assert choices[-1].chosen == "mean, 8 to 3, normalised"
    assert pool(FILES).width is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_features": 9}, "in_features is 9, and what comes before it makes 8"),
        ({"out_features": 4}, "its config.json says"),
        ({"bias": False}, "its config.json says"),
        ({"in_features": "8"}, "in_features"),
        ({"activation_function": "torch.nn.modules.activation.Mish"}, "Mish"),
        ({"module_input_name": "token_embeddings"}, "module_input_name 'token_embeddings'"),
        ({"module_output_name": "other"}, "module_output_name 'other'"),
    ],
)
def test_dense_layers_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    files = {**DENSE_FILES, "2_Dense/config.json": {**DENSE_CONFIG, **changes}}
    with pytest.raises(CheckpointError, match=message) as caught:
        pool(files, tensors=TENSORS)
    assert "2_Dense" in str(caught.value)


def test_dense_layers_without_files_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"2_Dense: model\.safetensors is missing; pickled"):
        pool(DENSE_FILES)
    with pytest.raises(CheckpointError, match=r"2_Dense/config\.json: missing"):
        pool({**DENSE_FILES, "2_Dense/config.json": None}, tensors=TENSORS)


@pytest.mark.parametrize("place", [1, 3])
def test_dense_layers_stand_behind_the_pooling(place: int) -> None:
    modules = list(MODULES)
    modules.insert(place, DENSE)
    with pytest.raises(CheckpointError, match="between Pooling and Normalize"):
        pool({**DENSE_FILES, "modules.json": modules}, tensors=TENSORS)
