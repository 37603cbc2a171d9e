"""Programs for a machine with an NVIDIA GPU; none has run on one yet.

    make test-gpu        check: every Triton kernel, and greedy answers, against torch's own
    make bench-gpu       bench: kernels, engine and transformers' continuous batching

They need no server and nothing installed but torch, triton, pydantic, msgspec, pluggy, safetensors
and (for comparisons) transformers. `--device cpu --tiny` walks through all but the device; Triton
3.6 does so with numpy 2.3, and not with 2.5.

device     which device, its clock, and what it can do: bandwidth and products in this same run
models     shapes of real models, with random weights that are made on the device; files
fresh      the ops' examples with other numbers each time
greedy     greedy answers beside transformers', of a tiny model and of SmolLM2
kernels    rows of kernels
engine     rows of the engine
peer       rows of transformers
rows       a row runs once: what is in the file is skipped
"""
