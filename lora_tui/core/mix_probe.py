"""The probe that a mix asks for."""

from __future__ import annotations

from collections.abc import Sequence

from shared import mixes, wire
from shared.errors import Code, LoraError
from shared.mixes import MixSpec

SEEDS = 2  # pictures of the mix's own prompt


def wanted(
    spec: MixSpec, *, blocks: bool = False, remedies: bool = True, prompts: Sequence[str] = (),
    losses: int = 0,
) -> wire.ProbeLoras:  # fmt: skip
    """On what the mix paints, from two seeds, or on what its LoRAs learnt to show if it has no
    prompt. Raises LoraError(WRONG_STATE) where there are no two that count."""
    uses = [mixes.use(lora) for lora in mixes.heard(spec)]
    if len(uses) < 2:
        raise LoraError(Code.WRONG_STATE, "It takes two LoRAs that count to fight.")
    own = [spec.prompt] * SEEDS if spec.prompt else []
    return wire.ProbeLoras(
        loras=uses, base=spec.base, prompts=[*prompts] or own, negative=spec.negative,
        cfg=spec.cfg, seed=spec.seed, width=spec.width, height=spec.height, blocks=blocks,
        remedies=remedies, losses=losses,
    )  # fmt: skip
