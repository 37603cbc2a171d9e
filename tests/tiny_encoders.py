"""Tiny random encoders and classifiers, and what transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FRAME = ("<pad>", "[UNK]", "[CLS]", "[SEP]")
_SHAPE = {
    "vocab_size": 37,
    "hidden_size": 48,
    "intermediate_size": 75,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 90,
    "initializer_range": 0.2,
}
# A window that cuts most of the texts, and a whole layer after it.
_MODERN = {
    "num_hidden_layers": 4,
    "local_attention": 10,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
_CAUSAL = {"num_key_value_heads": 2}
TYPELESS = ("ModernBert", "Qwen3", "Llama")  # they know no segments

# name -> (class of transformers, what differs from _SHAPE)
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", {"pad_token_id": 0}),
    "bert-gelu-new": ("BertModel", {"hidden_act": "gelu_new", "type_vocab_size": 1}),
    "roberta": ("RobertaModel", {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRobertaModel", {"pad_token_id": 3, "type_vocab_size": 1}),
    "camembert": ("CamembertModel", {"type_vocab_size": 1}),
    "modernbert": ("ModernBertModel", _MODERN),
    "modernbert-biases": (
        "ModernBertModel",
        {
            **_MODERN,
            **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias"), True),
            "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 900.0,
                    "factor": 2.0,
                    "original_max_position_embeddings": 45,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
}
CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", {"num_labels": 3}),
    "bert-reranker": ("BertForSequenceClassification", {"num_labels": 1}),
    "roberta": ("RobertaForSequenceClassification", {"num_labels": 2, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRobertaForSequenceClassification", {"num_labels": 1, "type_vocab_size": 1}),
    "modernbert": ("ModernBertForSequenceClassification", {**_MODERN, "num_labels": 3}),
    "modernbert-mean": (
        "ModernBertForSequenceClassification",
        {**_MODERN, "num_labels": 1, "classifier_pooling": "mean", "classifier_bias": True},
    ),
    "qwen3": ("Qwen3ForSequenceClassification", {**_CAUSAL, "num_labels": 3, "head_dim": 16}),
    "qwen3-tied": (
        "Qwen3ForSequenceClassification",
        {**_CAUSAL, "num_labels": 1, "tie_word_embeddings": True},
    ),
    "llama": ("LlamaForSequenceClassification", {**_CAUSAL, "num_labels": 2}),
}


def make_encoder(kind: str, changes: dict[str, Any], folder: Path) -> Path:
    """Write a complete folder of one class of transformers, weights by a fixed seed."""
    torch.manual_seed(7)
    model_class = getattr(transformers, kind)
    config = model_class.config_class(**{**_SHAPE, **changes})
    with torch.device("cpu"):
        model = model_class(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name.lower() or name.endswith("bias"):  # 1 and 0 would hide what they do
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"cls_token": "[CLS]"}))
    return folder


def make_tokenizer() -> Tokenizer:
    """A token a letter, in a frame like BERT's."""
    vocabulary = {text: i for i, text in enumerate((*FRAME, *LETTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.add_special_tokens(list(FRAME))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def add_modules(folder: Path, mode: str, *, is_normalised: bool, max_tokens: int = 64) -> None:
    """Write the files of sentence-transformers beside a model."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    kinds += [("2_Normalize", "Normalize")] if is_normalised else []
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, value in {
        "modules.json": modules,
        "1_Pooling/config.json": {f"pooling_mode_{mode}": True},
        "sentence_bert_config.json": {"max_seq_length": max_tokens},
    }.items():
        (folder / name).write_text(json.dumps(value))


def add_dense(folder: Path, number: int, layer: torch.nn.Linear, activation: str) -> None:
    """Write a dense module of sentence-transformers as the `number`th module, behind a pooling."""
    path = f"{number}_Dense"
    modules = json.loads((folder / "modules.json").read_text())
    kind = "sentence_transformers.models.Dense"
    modules.insert(number, {"idx": number, "name": str(number), "path": path, "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / path).mkdir()
    config = {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
        "activation_function": f"torch.nn.modules.{activation}",
    }
    (folder / path / "config.json").write_text(json.dumps(config))
    tensors = {f"linear.{name}": each.detach() for name, each in layer.named_parameters()}
    save_file(tensors, folder / path / "model.safetensors")


def compute_hidden(
    folder: Path, kind: str, prompts: list[list[int]], type_ids: list[list[int]] | None = None
) -> list[torch.Tensor]:
    """What transformers computes of each prompt alone: the last hidden state, or the logits."""
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    found = []
    for i, ids in enumerate(prompts):
        inputs = {"input_ids": torch.tensor([ids])}
        if not kind.startswith(TYPELESS):
            inputs["token_type_ids"] = torch.tensor([type_ids[i] if type_ids else [0] * len(ids)])
        with torch.inference_mode():
            out = model(**inputs)
        found.append((out.logits if "logits" in out else out.last_hidden_state)[0])
    return found
