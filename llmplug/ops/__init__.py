"""The ops that models call: one file each, with its torch reference.

A kernel plugin brings a faster twin of a reference; `KernelTable` holds the one chosen for each
op. Each file carries the tolerances that a twin must keep and the examples it is tried on.
Importing this room imports torch.
"""

from __future__ import annotations

from llmplug.ops.attention import AttentionBatch, KVCache, PagedAttention
from llmplug.ops.attention_examples import ATTENTION
from llmplug.ops.choose_tokens import CHOOSE_TOKENS, choose_tokens
from llmplug.ops.collective import Collective
from llmplug.ops.decoder_layer import ComposedDecoderLayer, DecoderLayer
from llmplug.ops.decoder_layer_examples import DECODER_LAYER
from llmplug.ops.embed import EMBED, embed
from llmplug.ops.expert_mlp import EXPERT_MLP, expert_mlp
from llmplug.ops.filter_tokens import FILTER_TOKENS, filter_tokens
from llmplug.ops.gelu_mul import GELU_MUL, gelu_mul
from llmplug.ops.layer_norm import LAYER_NORM, layer_norm
from llmplug.ops.linear import LINEAR, DenseLinear, DenseWeight, LoadedTensor, join_sources
from llmplug.ops.mask_tokens import MASK_TOKENS, mask_tokens
from llmplug.ops.penalise_tokens import PENALISE_TOKENS, penalise_tokens
from llmplug.ops.pool_texts import POOL_TEXTS, pool_texts
from llmplug.ops.rms_norm import ADD_RMS_NORM, RMS_NORM, add_rms_norm, rms_norm
from llmplug.ops.rope import ROPE, make_rope_table, rope
from llmplug.ops.rope_store import ROPE_STORE
from llmplug.ops.route_experts import ROUTE_EXPERTS, route_experts
from llmplug.ops.silu_mul import SILU_MUL, silu_mul
from llmplug.ops.split_kernels import split_kernels
from llmplug.ops.table import KernelChoice, KernelTable, Op, choose_kernels, load_kernels
from llmplug.ops.text_attention import TEXT_ATTENTION, TextBatch, TextStarts, text_attention
from llmplug.ops.transfer import send_to_device
from llmplug.ops.tuning import (
    ROW_BUCKETS,
    ModelSizes,
    Shape,
    Sizes,
    Tunable,
    Tuning,
    Workload,
    bucket_rows,
)
from llmplug.ops.tuning_table import TuningTable
from llmplug.stored_weights import Fp8Tensor, IntCodes, PackedIntTensor

# What is composed of other ops comes after them.
REFERENCES: dict[str, Op] = {
    op.name: op
    for op in (
        EMBED,
        RMS_NORM,
        ADD_RMS_NORM,
        LAYER_NORM,
        LINEAR,
        ROPE,
        ATTENTION,
        TEXT_ATTENTION,
        POOL_TEXTS,
        SILU_MUL,
        GELU_MUL,
        ROUTE_EXPERTS,
        EXPERT_MLP,
        PENALISE_TOKENS,
        MASK_TOKENS,
        FILTER_TOKENS,
        CHOOSE_TOKENS,
        ROPE_STORE,
        DECODER_LAYER,
    )
}

__all__ = [
    "REFERENCES",
    "ROW_BUCKETS",
    "AttentionBatch",
    "Collective",
    "ComposedDecoderLayer",
    "DecoderLayer",
    "DenseLinear",
    "DenseWeight",
    "Fp8Tensor",
    "IntCodes",
    "KVCache",
    "KernelChoice",
    "KernelTable",
    "LoadedTensor",
    "ModelSizes",
    "Op",
    "PackedIntTensor",
    "PagedAttention",
    "Shape",
    "Sizes",
    "TextBatch",
    "TextStarts",
    "Tunable",
    "Tuning",
    "TuningTable",
    "Workload",
    "add_rms_norm",
    "bucket_rows",
    "choose_kernels",
    "choose_tokens",
    "embed",
    "expert_mlp",
    "filter_tokens",
    "gelu_mul",
    "join_sources",
    "layer_norm",
    "load_kernels",
    "make_rope_table",
    "mask_tokens",
    "penalise_tokens",
    "pool_texts",
    "rms_norm",
    "rope",
    "route_experts",
    "send_to_device",
    "silu_mul",
    "split_kernels",
    "text_attention",
]
