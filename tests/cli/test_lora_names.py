"""LoRAs of runs that have one name: which is meant is said."""

from __future__ import annotations

from msgspec.structs import replace

from lora_tui.commands.lora_affinity import _namesake
from tests.fixtures.make_workspace import LORA


def test_a_later_run_of_the_name_is_told_of() -> None:
    loras = [LORA]
    assert _namesake("dragons", loras) == ""
    loras += [
        replace(LORA, name=f"dragons-{run}", run=run, created=LORA.created + number)
        for number, run in enumerate(["r0003", "r0007"], 1)
    ]
    said = "dragons is the LoRA of an earlier run; that of r0007 is dragons-r0007."
    assert _namesake("dragons", loras) == said
    assert _namesake("dragons-r0007", loras) == ""
