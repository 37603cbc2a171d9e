"""How a checkpoint says that its weights or its caches are quantised; the unknown is refused.

`quantization_config` of config.json rules; older checkpoints have a file of their own beside it.
Every field is read, known to change no number, or refused: a setting that changes the result is
never ignored. `quantised_weights.py` gathers the tensors.

Activations stay in the model's dtype, though fp8 checkpoints ask for activations in 8 bits: that
is what makes their products faster on some GPUs, and only takes digits from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmplug import CheckpointError
from llmplug_safetensors.json_files import read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

FIELD = "quantization_config"
GPTQ_FILE = "quantize_config.json"  # of AutoGPTQ
AWQ_FILE = "quant_config.json"  # of AutoAWQ
_FP8_BLOCK = [128, 128]  # outputs and inputs with one scale

# How the numbers were found, how other programs run them, and which modules stayed as they were
# (their tensors say it too): nothing that changes what the stored numbers mean.
_GPTQ_FREE = frozenset({
    "quant_method", "damp_percent", "damp_auto_increment", "dataset", "tokenizer", "static_groups",
    "true_sequential", "sym", "desc_act", "lm_head", "model_name_or_path", "model_file_base_name",
    "block_name_to_quantize", "module_name_preceding_first_block", "batch_size", "pad_token_id",
    "use_exllama", "exllama_config", "disable_exllama", "max_input_length", "use_cuda_fp16",
    "model_seqlen", "cache_block_outputs", "modules_in_block_to_quantize", "meta", "backend",
    "act_group_aware", "mse", "version",
})  # fmt: skip
_AWQ_FREE = frozenset({
    "quant_method", "modules_to_not_convert", "do_fuse", "fuse_max_seq_len", "modules_to_fuse",
    "exllama_config", "backend",
})  # fmt: skip
_FP8_FREE = frozenset({
    "quant_method", "activation_scheme", "ignored_layers", "modules_to_not_convert", "scale_fmt",
})  # fmt: skip
_COMPRESSED_FREE = frozenset({
    "quant_method", "quantization_status", "global_compression_ratio", "ignore", "version",
})  # fmt: skip
_SCHEME_FREE = frozenset({
    "targets", "input_activations", "output_activations", "observer", "observer_kwargs",
    "scale_dtype", "zp_dtype",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What the numbers of quantised linear weights mean.

    Attributes:
        layout: `GPTQ`, `GPTQ_V2` and `AWQ` as `llmplug.PackedIntTensor` says, or `F8_E4M3`.
        bits: of a number.
        group_size: inputs that share a scale; None: all of an output, or as the scales say.
        has_cache_scales: whether the tensors have scales of keys and values.
    """

    layout: Literal["GPTQ", "GPTQ_V2", "AWQ", "F8_E4M3"]
    bits: Literal[4, 8]
    group_size: int | None = None
    has_cache_scales: bool = False


def read_quantisation(config: Mapping[str, Any], folder: Path) -> Quantisation | None:
    """Read how the weights are quantised; None: they are not.

    Raises:
        CheckpointError: a method or a setting that is not known.
    """
    fields = config.get(FIELD)
    where, method = f"{folder / 'config.json'}: {FIELD}", None
    for name, implied in ((GPTQ_FILE, "gptq"), (AWQ_FILE, "awq")):
        if fields is None:
            fields = read_object(folder / name)
            where, method = str(folder / name), implied
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{where}: must be an object, not {fields!r}")
    settings = _Settings(fields, where)
    method = settings.choose("quant_method", _READERS, method)
    return _READERS[method](settings)


class _Settings:
    """The fields of one object; remembers which were looked at."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._fields = fields
        self._where = where
        self._seen: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self._seen.add(name)
        value = self._fields.get(name)
        return default if value is None else value

    def choose(self, name: str, served: Collection[Any], default: Any = None) -> Any:
        """Read a field that must have one of the values that are served."""
        value = self.get(name, default)
        if not any(value == one and type(value) is type(one) for one in served):
            words = ", ".join(repr(one) for one in served) or "only its absence"
            raise self.refuse(f"{name} is {value!r}; served: {words}")
        return value

    def refuse_any(self, *names: str) -> None:
        """Refuse fields that say anything."""
        for name in names:
            if self.get(name) not in (None, False, {}, []):
                raise self.refuse(f"{name} is {self._fields[name]!r}; only its absence is served")

    def inner(self, name: str) -> _Settings:
        value = self.get(name, {})
        if not isinstance(value, dict):
            raise self.refuse(f"{name} must be an object, not {value!r}")
        return _Settings(value, f"{self._where}: {name}")

    def names(self) -> list[str]:
        return list(self._fields)

    def refuse(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._where}: {what}")

    def refuse_unknown(self, free: Collection[str]) -> None:
        """Refuse fields that were not looked at, but for those that change no number."""
        unknown = sorted(set(self._fields) - self._seen - set(free))
        if unknown:
            raise self.refuse(
                f"{', '.join(unknown)}: not known, and what may change the result is not ignored"
            )


def _read_gptq(settings: _Settings) -> Quantisation:
    bits = settings.choose("bits", (4, 8))
    group_size = _read_group_size(settings, "group_size")
    version = settings.choose("checkpoint_format", ("gptq", "gptq_v2"), "gptq")
    settings.choose("pack_dtype", ("int32",), "int32")
    settings.refuse_any("is_marlin_format")
    rules = settings.inner("dynamic").names()
    changed = [rule for rule in rules if not rule.startswith("-:")]  # "-:" leaves modules out
    if changed:
        raise settings.refuse(f"dynamic: other settings for {changed[0]!r} are not served")
    settings.refuse_unknown(_GPTQ_FREE)
    return Quantisation("GPTQ_V2" if version == "gptq_v2" else "GPTQ", bits, group_size)


def _read_awq(settings: _Settings) -> Quantisation:
    older = "w_bit" in settings.names()
    settings.choose("w_bit" if older else "bits", (4,))
    group_size = _read_group_size(settings, "q_group_size" if older else "group_size")
    settings.choose("version", ("gemm", "GEMM"), "gemm")
    settings.choose("zero_point", (True,), True)
    settings.refuse_unknown(_AWQ_FREE)
    return Quantisation("AWQ", 4, group_size)


def _read_fp8(settings: _Settings) -> Quantisation:
    settings.choose("fmt", ("e4m3", "float8_e4m3fn"), "e4m3")
    settings.choose("weight_block_size", (_FP8_BLOCK,), _FP8_BLOCK)
    settings.choose("dequantize", (False,), False)
    settings.refuse_any("kv_cache_quant_method")
    scheme = settings.choose("kv_cache_scheme", (None, "static"))
    settings.refuse_unknown(_FP8_FREE)
    return Quantisation("F8_E4M3", 8, has_cache_scales=scheme is not None)


def _read_compressed(settings: _Settings) -> Quantisation:
    settings.choose("format", ("float-quantized", "naive-quantized", "dense"))
    settings.refuse_any("transform_config")
    sparsity = settings.inner("sparsity_config")
    if sparsity.get("format", "dense") != "dense":
        raise sparsity.refuse(f"format is {sparsity.get('format')!r}; served: 'dense'")
    groups = settings.inner("config_groups")
    for name in groups.names():
        _check_scheme(groups.inner(name))
    has_cache_scales = bool(settings.get("kv_cache_scheme"))
    if has_cache_scales:
        _check_numbers(settings.inner("kv_cache_scheme"), ("tensor",))
    settings.refuse_unknown(_COMPRESSED_FREE)
    return Quantisation("F8_E4M3", 8, has_cache_scales=has_cache_scales)


def _check_scheme(scheme: _Settings) -> None:
    """Refuse what is no fp8 weight with scales for all, for outputs or for blocks.

    A scheme of activations alone, as attention may have, says nothing of weights.
    """
    scheme.choose("format", ("float-quantized", "naive-quantized", "dense"), "float-quantized")
    if scheme.get("weights") is not None:
        _check_numbers(scheme.inner("weights"), ("tensor", "channel", "block"))
    scheme.refuse_unknown(_SCHEME_FREE)


def _check_numbers(numbers: _Settings, strategies: Collection[str]) -> None:
    """Refuse what is no e4m3 with scales found beforehand, of one of these kinds."""
    numbers.choose("num_bits", (8,))
    numbers.choose("type", ("float",))
    numbers.choose("strategy", strategies)
    numbers.choose("block_structure", (_FP8_BLOCK, "128x128"), _FP8_BLOCK)
    numbers.choose("symmetric", (True,), True)
    numbers.choose("dynamic", (False,), False)
    numbers.refuse_any("group_size", "actorder")
    numbers.refuse_unknown(_SCHEME_FREE)


def _read_group_size(settings: _Settings, name: str) -> int | None:
    size = settings.get(name)
    if isinstance(size, bool) or not isinstance(size, int) or size == 0 or size < -1:
        raise settings.refuse(f"{name} is {size!r}; it must be a number of inputs, or -1 for all")
    return None if size == -1 else size


_READERS: dict[str, Callable[[_Settings], Quantisation]] = {
    "gptq": _read_gptq,
    "awq": _read_awq,
    "fp8": _read_fp8,
    "compressed-tensors": _read_compressed,
}
