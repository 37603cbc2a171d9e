"""Our server, in processes of its own, withstands `llmplug attack`."""

from __future__ import annotations

import os

import pytest

from llmplug.attack.attacker import Attacker
from llmplug.attack.attacks import Attack
from llmplug.attack.canary import Canary
from llmplug.attack.leftovers import ProcessMemory
from llmplug.attack.run import ATTACKS, BREATHS, run_attack

from .tiny_server import TinyServer

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")

# Other tests run beside this one: a second of a processor may take several.
WITHIN_S = 5.0


@pytest.fixture(scope="module")
def canary(tiny_server: TinyServer) -> Canary:
    return Canary(tiny_server.target, BREATHS * WITHIN_S)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_our_server_withstands(tiny_server: TinyServer, canary: Canary, attack: Attack) -> None:
    attacker = Attacker(target=tiny_server.target, within_s=WITHIN_S)
    outcome = run_attack(attack, attacker, canary, ProcessMemory(tiny_server.pid))
    assert (outcome.result, outcome.seen) == ("withstood", "")
