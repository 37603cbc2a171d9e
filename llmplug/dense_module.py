"""Dense modules of sentence-transformers: a linear layer over what was pooled, in its own folder.

Source: the files that sentence-transformers writes: a `config.json` and a `model.safetensors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.errors import CheckpointError
from llmplug.model_config import ConfigReader
from llmplug.pooling import DenseLayer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug.pooling import Activation
    from llmplug.specs import LazyTensor

WEIGHT, BIAS = "linear.weight", "linear.bias"
_OUTPUT = "sentence_embedding"  # what poolings make, and Dense modules change
# By the name of torch's class.
_ACTIVATIONS: Mapping[str, Activation] = {
    "Identity": "none",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}


def read_dense(config: Any, folder: str) -> DenseLayer:
    """Read the config of a module.

    Raises:
        CheckpointError: it is missing or wrong, or says what is not supported.
    """
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder}/config.json: missing; it says what the layer is")
    try:
        return _read(ConfigReader(config), config, folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}/config.json: {error}") from error


def _read(reader: ConfigReader, config: Mapping[str, Any], folder: str) -> DenseLayer:
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, _OUTPUT):
            raise CheckpointError(f"{name} {config[name]!r} is not supported, only {_OUTPUT}")
    named = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = _ACTIVATIONS.get(str(named).rpartition(".")[2])
    if activation is None:
        raise CheckpointError(
            f"the activation {named!r} is not supported: {', '.join(_ACTIVATIONS)} are"
        )
    return DenseLayer(
        folder=folder,
        num_inputs=reader.integer("in_features"),
        num_outputs=reader.integer("out_features"),
        has_bias=reader.flag("bias", True),
        activation=activation,
    )


def check_dense(
    layers: Sequence[DenseLayer], width: int, tensors: Mapping[str, Mapping[str, LazyTensor]]
) -> None:
    """Hold layers against each other, and against the weights in their folders.

    Args:
        width: of what the first one gets.
        tensors: by folder.
    Raises:
        CheckpointError: they do not fit.
    """
    for layer in layers:
        if layer.num_inputs != width:
            raise CheckpointError(
                f"{layer.folder}: in_features is {layer.num_inputs}, and what comes before it "
                f"makes {width} numbers"
            )
        width = layer.num_outputs
        if layer.folder not in tensors:
            raise CheckpointError(
                f"{layer.folder}: model.safetensors is missing; pickled weights are never loaded"
            )
        _check_tensors(layer, tensors[layer.folder])


def _check_tensors(layer: DenseLayer, tensors: Mapping[str, LazyTensor]) -> None:
    shapes: dict[str, tuple[int, ...]] = {WEIGHT: (layer.num_outputs, layer.num_inputs)}
    if layer.has_bias:
        shapes[BIAS] = (layer.num_outputs,)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes:
        raise CheckpointError(f"{layer.folder}: holds {found}; its config.json says {shapes}")


def describe_dense(layer: DenseLayer) -> str:
    """What the layer does, for the report."""
    change = f"{layer.num_inputs} to {layer.num_outputs}"
    return change if layer.activation == "none" else f"{change} by {layer.activation}"
