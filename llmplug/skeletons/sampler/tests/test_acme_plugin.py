import torch

from llmplug import SamplerRow
from llmplug.testing import check_sampler

from acme_plugin import llmplug_samplers


def lower_the_best(logits_V: torch.Tensor, row: SamplerRow) -> torch.Tensor:
    """The formula, for one row, written another way than the sampler's."""
    expected_V = logits_V.clone()
    expected_V[int(logits_V.argmax())] -= row.params.acme_plugin_strength
    return expected_V


def test_sampler() -> None:
    (spec,) = llmplug_samplers()
    settings = [{"acme_plugin_strength": 0.5}, {"acme_plugin_strength": 3.0}]
    check_sampler(spec, settings, formula=lower_the_best)
