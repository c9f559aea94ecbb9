"""Pictures on a GPU: the CPU's, from the same noise; every sampler; previews and second passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from torch import Tensor

from lora_daemon import pipe
from lora_daemon.engine import lora_file
from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import paint
from lora_daemon.engine.mix import Mix, Strength
from lora_daemon.engine.studio import Studio
from shared.pictures import PictureSpec, SecondPass, Start
from tests.engine.test_generate import (
    test_a_picture_in_a_batch_is_nearly_the_one_made_alone,
    test_every_sampler_paints_the_same_picture_twice,
)
from tests.engine.test_live_mix import lora
from tests.engine.test_passes import (
    drawing,
    far,
    test_a_variation_goes_from_one_seed_to_the_other,
    test_every_sampler_ends_at_the_clean_picture_wherever_it_begins,
    test_the_more_is_drawn_anew_the_farther_it_is_from_where_it_began,
    test_the_second_pass_enlarges_and_draws_as_much_anew_as_it_is_told,
)
from tests.engine.test_previews import (
    psnr,
    test_the_linear_decoder_is_near_to_the_vae_that_it_was_fitted_to,
)

pytestmark = pytest.mark.gpu
SPEC = PictureSpec(prompt="a thing", negative="a blur", steps=6, seed=3, cfg=4)


def test_the_noise_of_a_seed_is_the_same_bit_for_bit(base: Base, on_cpu: Base) -> None:
    seen: list[Tensor] = []
    for one in (base, on_cpu):
        hook = one.unet.register_forward_pre_hook(lambda _, given: seen.append(given[0].cpu()))
        paint(
            one, [PictureSpec(prompt="a thing", steps=1, seed=77, sampler="DDIM")], lambda _: None
        )
        hook.remove()
    assert torch.equal(*seen)


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M Karras", "DPM++ SDE", "UniPC", "DDIM"])
def test_a_picture_of_a_mix_is_the_cpus(
    sampler: Any, base: Base, on_cpu: Base, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for number, path in enumerate(paths):
        lora(on_cpu, path, seed=number)
    pictures = []
    for one in (base, on_cpu):
        mix = Mix(one, [lora_file.load(path, one).modules for path in paths])
        mix.set([Strength(0.05), Strength(-0.04)])
        spec = PictureSpec(prompt="a thing", steps=6, seed=3, cfg=4, sampler=sampler)
        with mix.on():
            pictures.append(paint(one, [spec], lambda _: None)[0])
            assert paint(one, [spec], lambda _: None)[0].tobytes() == pictures[-1].tobytes()
    apart = far(*pictures)
    assert apart < 1, f"{apart:.2f} of 255 apart"


def test_the_studio_paints_with_loras_previews_and_passes(
    device: torch.device,
    base: Base,
    base_path: Path,
    drawing: str,
    tmp_path: Path,
) -> None:
    """As the worker does, in the precision of auto; folded or not as is measured here."""
    told: list[Any] = []
    studio = Studio(device, told.append, lambda _: False)
    path = tmp_path / "one.safetensors"
    lora(base, path)
    uses = [pipe.LoraFile(path=str(path), name="one", weight=0.05)]
    previews = pipe.Previews(
        cache=str(tmp_path / "cache"), folder=str(tmp_path / "approx"), way=str(tmp_path / "way"),
        itself=True, decoder="cheap",
    )  # fmt: skip
    second = SecondPass(scale=1.5, strength=0.5, upscaler="Latent")
    for name, spec, more in (
        ("plain", SPEC, {}),
        ("again", SPEC, {}),
        ("cheap", SPEC, {"previews": previews}),
        ("from", replace(SPEC, start=Start(picture=drawing, strength=0.5)), {}),
        ("second", replace(SPEC, second=second), {}),
    ):  # fmt: skip
        out = tmp_path / f"{name}.png"
        job = pipe.Paint(
            job=name, spec=spec, base_path=str(base_path), loras=uses, out=str(out), **more
        )
        studio.serve(job, lambda: studio.base(str(base_path)))
        assert isinstance(told[-1], pipe.Painted), told[-1]
    sizes = {name: Image.open(tmp_path / f"{name}.png").size
             for name in ("plain", "cheap", "from", "second")}  # fmt: skip
    assert (sizes["plain"], sizes["from"], sizes["second"]) == ((64, 64), (64, 64), (96, 96))
    assert (
        Image.open(tmp_path / "plain.png").tobytes() == Image.open(tmp_path / "again.png").tobytes()
    )
    print(studio._paces._known, sizes)
