import pytest
import torch
from example_rms_norm import llmplug_kernels
from llmplug import KernelInputError, KernelSpec
from llmplug.testing import check_kernel

# numpy, which stands in for the GPU, warns of the inf and NaN that some checks are about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture
def spec() -> KernelSpec:
    (only,) = llmplug_kernels()
    return only


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_kernel(spec: KernelSpec, dtype: str) -> None:
    check_kernel(spec, device="cpu", dtype=dtype)


def test_where_it_does_not_run(spec: KernelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spec.supports("cuda", "bfloat16") is None
    assert "int8" in (spec.supports("cuda", "int8") or "")
    assert "bfloat16" in (spec.supports("cpu", "bfloat16") or "")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "not on cpu" in (spec.supports("cpu", "float32") or "")


def test_what_does_not_go_together_is_refused(spec: KernelSpec) -> None:
    add_rms_norm, x_TD = spec.load(), torch.ones(2, 3)
    for residual_TD, width in [(torch.ones(2, 4), 3), (x_TD.half(), 3), (x_TD, 4)]:
        with pytest.raises(KernelInputError, match="add_rms_norm"):
            add_rms_norm(x_TD, residual_TD, torch.ones(width), eps=1e-5)
