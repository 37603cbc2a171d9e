"""`llmplug tune`: try block sizes on this machine, once, and keep the best in a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmplug.config import Config
    from llmplug.ops import ModelSizes, Sizes, Tunable
    from llmplug.ops.autotune import TunedKernel
    from llmplug.ops.tuning_table import TuningRow
    from llmplug.registry import Registry

NAME = "tune"
HELP = "try the kernels' block sizes on this GPU, and keep the best in a table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a config or the sizes of a usual model, which kernels, and where the table is."""
    from llmplug.cli.arguments import add_config

    add_config(parser, required=False)
    parser.add_argument(
        "--model-shape", metavar="NAME", help="in place of a config: a usual model of 8b, 0.6b, ..."
    )
    parser.add_argument(
        "--kernels", metavar="NAME", nargs="+", help="only these: linear, attention, ..."
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="the table; else the one that `serve` reads"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="cpu: only to try the way; the times say nothing",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="else the config's"
    )


def run(args: argparse.Namespace) -> int:
    """Search what the table lacks, and write down each row when it is found."""
    from llmplug.cli.terminal import write
    from llmplug.ops.tuning_table import read_table, write_table

    config, registry = _open(args)
    path = _find_path(args, config)
    rows = read_table(path) if path.exists() else []
    num_before = len(rows)
    device = _choose_device(args)
    kernels = _choose_kernels(args.kernels, registry, device)
    if device == "cpu":
        write("on a CPU kernels are only tried: the times say nothing about a GPU")
    try:
        for dtype, sizes in _list_models(args, config, registry, device):
            for row in _search(kernels, rows, sizes, device, dtype):
                rows.append(row)
                write_table(path, rows)
                write(_describe(row))
    finally:  # after Ctrl-C too: what was found is written
        write(f"{path}: {len(rows) - num_before} rows found, {num_before} were there")
    return 0


def _open(args: argparse.Namespace) -> tuple[Config | None, Registry]:
    """Read the config if there is one, and load the plugins that it allows."""
    from llmplug import assemble, plugins
    from llmplug.cli.arguments import read_config
    from llmplug.errors import ConfigError
    from llmplug.registry import Registry

    if (args.config is None) == (args.model_shape is None):
        raise ConfigError("give either --config FILE or --model-shape NAME")
    if args.config is None:
        if args.sets:
            raise ConfigError("--set needs --config FILE, whose values it overrides")
        return None, Registry(plugins.load_all())
    config = read_config(args)
    return config, assemble.load_registry(config)


def _find_path(args: argparse.Namespace, config: Config | None) -> Path:
    from llmplug import assemble, kernel_tuning
    from llmplug.errors import ConfigError

    if args.out is not None:
        return Path(args.out)
    named = {model.kernels.tuning for model in config.models} if config else {"auto"}
    path = kernel_tuning.find_table(next(iter(named)), assemble.cache_dir())
    if path is None or len(named) > 1:
        raise ConfigError(f"give --out FILE: kernels.tuning is {' and '.join(sorted(named))}")
    return path


def _choose_device(args: argparse.Namespace) -> str:
    """Return the device type; a CPU only where it is asked for."""
    import torch

    from llmplug.errors import ConfigError

    if args.device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError("torch finds no GPU to tune for; --device cpu only tries the way")
    return "cuda"


def _choose_kernels(
    names: Sequence[str] | None, registry: Registry, device: str
) -> list[tuple[TunedKernel, Tunable]]:
    """Return what is to be searched: of all kernels that have free parameters, or of those named.

    Raises:
        ConfigError: no kernel has any, or none of such a name.
    """
    from llmplug.did_you_mean import did_you_mean
    from llmplug.errors import ConfigError
    from llmplug.ops import REFERENCES
    from llmplug.ops.autotune import take_kernel

    specs = [entry.spec for entry in registry.kernels if entry.spec.op in REFERENCES]
    found = {
        spec.op: [(take_kernel(spec, specs, REFERENCES), one) for one in spec.tunables(device)]
        for spec in specs
        if spec.tunables is not None
    }
    if not any(found.values()):
        raise ConfigError(f"no installed kernel has anything to tune on {device}")
    for name in names or ():
        if name not in found:
            hint = did_you_mean(name, found) or f"; there are {', '.join(sorted(found))}"
            raise ConfigError(f"--kernels: no kernel of {name!r} can be tuned on {device}{hint}")
    return [pair for op, pairs in found.items() if names is None or op in names for pair in pairs]


def _list_models(
    args: argparse.Namespace, config: Config | None, registry: Registry, device: str
) -> Iterator[tuple[str, ModelSizes]]:
    """Yield the dtype and the sizes of each model; reads headers, no weight.

    Raises:
        ConfigError: no usual model has that name.
    """
    from llmplug import assemble, resources
    from llmplug.cli.terminal import TerminalProgress
    from llmplug.errors import ConfigError
    from llmplug.ops.model_sizes import USUAL_SIZES, read_sizes

    usual = "bfloat16" if device == "cuda" else "float32"
    if config is None:
        if args.model_shape not in USUAL_SIZES:
            raise ConfigError(
                f"--model-shape: no usual model {args.model_shape!r}: {', '.join(USUAL_SIZES)}"
            )
        yield args.dtype or usual, USUAL_SIZES[args.model_shape]
        return
    with TerminalProgress() as progress:
        for model in config.models:
            path = assemble.resolve_source(model.source, registry, progress, [])
            files = assemble.open_files(model, path, registry, [])
            checkpoint = files.checkpoint
            sizes = read_sizes(
                checkpoint.config, files.shape, files.model.weights(checkpoint.config),
                checkpoint.tensors, model.weights.format,
            )  # fmt: skip
            yield args.dtype or resources.choose_dtype(model, device).chosen, sizes


def _search(
    kernels: Sequence[tuple[TunedKernel, Tunable]],
    rows: Sequence[TuningRow],
    sizes: ModelSizes,
    device: str,
    dtype: str,
) -> Iterator[TuningRow]:
    """Yield a row for all that has none yet."""
    import torch

    from llmplug.ops.autotune import Search
    from llmplug.ops.stopwatch import make_stopwatch
    from llmplug.ops.tuning_table import name_device

    search = Search(
        sizes=sizes,
        device=torch.device(device),
        device_name=name_device(device),
        dtype=getattr(torch, dtype),
        stopwatch=make_stopwatch(torch.device(device)),
        done=frozenset(row.key for row in rows),
    )
    for kernel, tunable in kernels:
        yield from search.find_rows(kernel, tunable)


def _describe(row: TuningRow) -> str:
    """Write a row as one line, and one for all that was passed over."""
    shape = " ".join(f"{name}={value}" for name, value in row.key.shape)
    rate = f"{row.gbytes_s:.0f} GB/s" + (f", {row.tflops:.1f} TFLOP/s" if row.tflops else "")
    times = f"{row.us:.1f} us, {rate} (default {row.default_us:.1f} us)"
    lines = [f"{row.key.kernel} {row.key.dtype} {shape}: {_write_sizes(row.sizes)}: {times}"]
    by_reason: dict[str, list[str]] = {}
    for bad, why in row.passed_over:
        by_reason.setdefault(why, []).append(_write_sizes(bad))
    lines += [f"  passed over {'; '.join(bad)}: {why}" for why, bad in by_reason.items()]
    return "\n".join(lines)


def _write_sizes(sizes: Sizes) -> str:
    return " ".join(f"{name}={value}" for name, value in sizes.items())
