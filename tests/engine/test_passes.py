"""Pictures out of pictures: begun from one, drawn anew larger, varied; and the field's samplers."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image

from lora_daemon.engine import samplers, starting
from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import paint
from lora_daemon.engine.multistep import weights
from lora_daemon.engine.samplers import timed
from shared.errors import Code, LoraError
from shared.pictures import UPSCALERS, PictureSpec, SecondPass, Start, Variation
from shared.recipe import Sampler


def made(base: Base, **spec: object) -> Image.Image:
    wanted = PictureSpec(**{"prompt": "a thing", "steps": 6, "seed": 3, **spec})  # type: ignore[arg-type]
    return paint(base, [wanted], lambda _: None)[0]


def far(one: Image.Image, other: Image.Image) -> float:
    """How far two pictures are apart, on average, of 255."""
    pixels = [np.asarray(picture, dtype=float) for picture in (one, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


@pytest.fixture
def drawing(tmp_path: Path) -> str:
    path = tmp_path / "drawing.png"
    ramp = np.linspace(0, 255, 100).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (80, 1))] * 3, -1)).save(path)
    return str(path)


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM++ 2M Karras", "DPM2 a", "LCM", "DDIM"])
def test_the_more_is_drawn_anew_the_farther_it_is_from_where_it_began(
    base: Base, drawing: str, sampler: Sampler
) -> None:
    found = [
        made(base, sampler=sampler, start=Start(picture=drawing, strength=strength))
        for strength in (0.0, 0.35, 1.0)
    ]
    assert [picture.size for picture in found] == [(64, 64)] * 3
    through = starting.read(base, drawing, (64, 64))
    pixels = ((base.decode_latents(through)[0] + 1) * 127.5).round().to(torch.uint8)
    assert found[0].tobytes() == pixels.permute(1, 2, 0).cpu().numpy().tobytes()  # nothing drawn
    assert 0 < far(found[0], found[1]) < far(found[0], found[2])


@pytest.mark.parametrize("begin", [0, 6])
@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_every_sampler_ends_at_the_clean_picture_wherever_it_begins(
    sampler: Sampler, begin: int, base: Base
) -> None:
    """With a denoiser that knows the answer: the check of each one's options."""
    answer = torch.linspace(-3, 3, 4 * 64).reshape(1, 4, 8, 8).to(base.device)
    noise = torch.randn(answer.shape, generator=torch.Generator().manual_seed(0)).to(base.device)
    steps = timed(sampler, base.scheduler_config, 12, base.device)
    timesteps = steps.timesteps[begin * steps.order :]
    latents = noise * steps.init_noise_sigma
    if begin:
        if hasattr(steps, "set_begin_index"):
            steps.set_begin_index(begin * steps.order)
        latents = steps.add_noise(answer, noise, timesteps[:1])
    for timestep in timesteps:
        seen = steps.scale_model_input(latents, timestep)
        kept = base.alphas_cumprod[int(timestep)]
        if not hasattr(steps, "sigmas"):
            noise = (seen - kept.sqrt() * answer) / (1 - kept).sqrt()
        elif steps.init_noise_sigma > 1:  # x = x₀ + σε, of which is seen x / √(σ² + 1)
            scale = (latents.double() / seen.double()).median()
            noise = (latents - answer) / (scale**2 - 1).sqrt().float()
        else:
            sigma = steps.sigmas[begin if steps.step_index is None else steps.step_index]
            alpha = 1 / (1 + sigma**2).sqrt()
            noise = (seen - alpha * answer) / (sigma * alpha)
        latents = steps.step(noise, timestep, latents).prev_sample
    assert (latents - answer).abs().max() < 0.15


@pytest.mark.parametrize("upscaler", UPSCALERS)
def test_the_second_pass_enlarges_and_draws_as_much_anew_as_it_is_told(
    base: Base, upscaler: str
) -> None:
    counted: list[int] = []
    spec = PictureSpec(prompt="a thing", steps=10, seed=3, second=SecondPass(
        scale=1.5, strength=0.3, upscaler=upscaler, steps=20))  # fmt: skip
    (large,) = paint(base, [spec], counted.append)
    assert large.size == (96, 96)
    assert counted == list(range(1, 17)) and spec.work == 16  # 10, and 0.3 · 20
    again, other = (
        paint(
            base,
            [
                replace(
                    spec, second=SecondPass(scale=1.5, strength=share, upscaler=upscaler, steps=20)
                )
            ],
            counted.append,
        )[0]
        for share in (0.3, 0.6)
    )
    assert again.tobytes() == large.tobytes() != other.tobytes()


def test_a_variation_goes_from_one_seed_to_the_other(base: Base) -> None:
    here, there = made(base), made(base, seed=9)
    between = [made(base, variation=Variation(seed=9, strength=share)) for share in (0.0, 0.5, 1.0)]
    assert between[0].tobytes() == here.tobytes()
    assert far(between[2], there) < 0.2 * far(here, there)
    assert between[1].tobytes() not in (here.tobytes(), there.tobytes())
    own = torch.Generator().manual_seed(1)
    mixed = starting.noise((1, 4, 64, 64), own, Variation(seed=2, strength=0.5))
    assert float(mixed.std()) == pytest.approx(1, abs=0.02)  # still noise of one deviation


def test_giving_up_takes_one_step_also_in_the_second_pass(base: Base) -> None:
    seen: list[int] = []

    def progress(done: int) -> None:
        seen.append(done)
        if done == 8:
            raise LoraError(Code.CANCELLED, "enough")

    with pytest.raises(LoraError):
        paint(base, [PictureSpec(steps=6, second=SecondPass(strength=1))], progress)
    assert seen == list(range(1, 9))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n cut"])
def test_a_picture_that_cannot_be_begun_from_is_named(
    base: Base, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    for place in (path, tmp_path / "gone.png", tmp_path):
        with pytest.raises(LoraError) as refused:
            made(base, start=Start(picture=str(place)))
        assert refused.value.code is Code.INVALID_FILE and str(place) in str(refused.value)


def test_multistep_weights_are_the_integrals_of_lagrange_polynomials() -> None:
    sigmas, then = np.array([9.0, 7.0, 4.5, 3.0]), 2.0
    found = weights(sigmas, then)
    along = np.linspace(3.0, then, 20_001)
    for number, own in enumerate(sigmas):
        others = np.delete(sigmas, number)
        basis = np.prod([(along - one) / (own - one) for one in others], axis=0)
        assert found[number] == pytest.approx(float(np.trapezoid(basis, along)), rel=1e-6)
    assert weights(sigmas[-1:], then) == pytest.approx([then - 3.0])  # the first step is Euler's


def test_beta_timesteps_are_quantiles_dense_at_both_ends() -> None:
    found = samplers._beta(21, 1000)
    assert found[0] == 999 and found == sorted(found, reverse=True) and len(found) == 21
    assert found[10] - found[11] > 1.5 * (found[0] - found[1])
    middle = samplers._beta(2, 1000)  # the median of a symmetric distribution
    assert middle[1] == pytest.approx(499.5, abs=1)


def test_zero_terminal_snr_says_which_samplers_can(base: Base) -> None:
    config = {**base.scheduler_config, "rescale_betas_zero_snr": True}
    for name in get_args(Sampler):
        try:
            steps = timed(name, config, 8, torch.device("cpu"))
        except LoraError as error:
            assert "Euler a, " in str(error) and f" {name}," not in str(error).partition("These")[2]
        else:
            assert int(steps.timesteps[0]) == 999
