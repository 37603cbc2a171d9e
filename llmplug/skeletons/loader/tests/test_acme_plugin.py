import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models

from llmplug.testing import check_loader

from acme_plugin import llmplug_model_loaders

CONFIG = {"architectures": ["SomeForCausalLM"], "hidden_size": 4}
TENSORS = {
    "model.norm.weight": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "lm_head.weight": torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).half(),
}


def write(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(CONFIG))
        file.writestr("tokenizer.json", Tokenizer(models.BPE({"a": 0, "b": 1}, [])).to_str())
        for name, tensor in TENSORS.items():
            stream = io.BytesIO()
            np.save(stream, tensor.numpy())
            file.writestr(f"{name}.npy", stream.getvalue())


def test_loader(tmp_path: Path) -> None:
    path = tmp_path / "tiny.acme"
    write(path)
    (spec,) = llmplug_model_loaders()
    check_loader(spec, path, config=CONFIG, tensors=TENSORS)
