"""Distilled LoRAs for previews: what their names say, how they are asked for, what a mix keeps."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shared import distilled, mixes
from shared.distilled import Preview
from shared.errors import LoraError
from shared.mixes import MixLora, MixSpec


@pytest.mark.parametrize(
    ("text", "preview"),
    [
        ("lcm-lora-sdv1-5", Preview(lora="lcm-lora-sdv1-5")),
        (
            "loras/sdxl_lightning_8step_lora.safetensors",
            Preview(lora="loras/sdxl_lightning_8step_lora.safetensors", steps=8,
                    sampler="Euler SGM Uniform"),
        ),
        ("dmd2_sdxl_4step_lora:0.8 6", Preview(lora="dmd2_sdxl_4step_lora", weight=0.8, steps=6)),
        ("my own:1 3 Euler a", Preview(lora="my own", steps=3, sampler="Euler a")),
    ],
)  # fmt: skip
def test_what_is_left_out_is_as_the_name_says(text: str, preview: Preview) -> None:
    assert distilled.read(text) == preview
    assert distilled.read(distilled.said(preview)) == preview


@pytest.mark.parametrize("text", ["", "lcm:1 0", "lcm:11 4", "lcm:1 51 LCM"])
def test_what_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(LoraError):
        distilled.read(text)


def test_a_mix_keeps_its_preview_and_its_picture_has_none_of_it() -> None:
    spec = MixSpec(loras=[MixLora(lora="ink")])
    quick = replace(spec, preview=Preview(lora="lcm"))
    assert mixes.picture(quick) == mixes.picture(spec)
    assert mixes.webui(quick) == mixes.webui(spec)
    theirs = replace(spec, seed=7)
    assert mixes.merged(spec, quick, theirs) == replace(quick, seed=7)
