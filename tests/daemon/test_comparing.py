"""LoRAs compared on request, by a real process of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shared import wire
from shared.errors import Code, LoraError
from shared.pictures import LoraUse
from tests.daemon.house import House

KEYS = "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn2_to_k"


def _lora(path: Path, sign: float) -> LoraUse:
    draw = torch.Generator().manual_seed(1)
    down = torch.randn(4, 40, generator=draw)
    up = sign * torch.randn(24, 4, generator=draw)
    save_file({f"{KEYS}.lora_down.weight": down, f"{KEYS}.lora_up.weight": up}, path)
    return LoraUse(lora=str(path))


async def test_the_daemon_says_where_two_loras_fight(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    await house.domain.start()
    try:
        ink, pencil = (_lora(tmp_path / f"{n}.safetensors", s) for n, s in (("ink", 1), ("p", -1)))
        answer = await house.call(wire.CompareLoras(loras=[ink, pencil], modules=True))
        told = answer.found
        assert told.loras == ["ink", "p"] and "pull the same keys in up.1" in told.sentence
        assert told.whole.overlap[0][1] == pytest.approx(-1) and len(told.modules) == 1
        os.truncate(pencil.lora, 100)
        with pytest.raises(LoraError, match="safetensors") as caught:
            await house.call(wire.CompareLoras(loras=[ink, pencil]))
        assert caught.value.code == Code.INVALID_FILE
        with pytest.raises(LoraError, match="2 to 64"):
            await house.call(wire.CompareLoras(loras=[ink]))
        with pytest.raises(LoraError, match="no LoRA"):
            await house.call(wire.CompareLoras(loras=[ink, LoraUse(lora="nowhere")]))
        nine = [ink] * 9
        with pytest.raises(LoraError, match="at most 8"):
            await house.call(wire.CompareLoras(loras=nine, modules=True))
    finally:
        await house.close()
