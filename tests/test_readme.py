"""The plugin that the README shows is one."""

from __future__ import annotations

import re
from pathlib import Path

from llmplug.plugin_report import State
from llmplug.testing import check_sampler
from tests.fake_plugins import Site, load_all

README = Path(__file__).parents[1] / "README.md"


def test_the_plugin_of_the_readme_is_found_and_bans_its_token(site: Site) -> None:
    (code,) = re.findall(
        r"```python\n(from llmplug import SamplerSpec.*?)```", README.read_text(), re.S
    )
    site.install("ban", code)
    (plugin,) = load_all(site).values()
    assert (plugin.state, plugin.reason) == (State.OK, "")
    (offer,) = plugin.offers
    check_sampler(offer.spec, [{"ban_token": 0}, {"ban_token": 500}, {"ban_token": 10**6}])
