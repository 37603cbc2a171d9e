from llmplug.testing import check_kernel

from acme_plugin import llmplug_kernels


def test_kernel() -> None:
    (spec,) = llmplug_kernels()
    check_kernel(spec, device="cpu", dtype="float32")


def test_where_it_does_not_run() -> None:
    (spec,) = llmplug_kernels()
    assert "cuda" in (spec.supports("cuda", "float32") or "")
    assert "bfloat16" in (spec.supports("cpu", "bfloat16") or "")
