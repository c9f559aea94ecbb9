"""LoRAs recognised in pictures: against the same predictions made one by one, and in the studio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from lora_daemon import pipe
from lora_daemon.engine import company, lora_file, studio
from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import conditioning, paint_latents
from lora_daemon.engine.mix import Mix, Strength, applied
from lora_daemon.engine.randomness import generator
from lora_daemon.engine.studio import Studio
from shared.errors import Code
from shared.pictures import LoraUse, PictureSpec
from tests.engine.test_inputs import QUERY, TEXT, random_lora

SPEC = PictureSpec(prompt="a cat", negative="b", steps=8, sampler="DDIM", cfg=3, seed=5)
OFF = Strength(0.0)


@pytest.fixture
def files(base: Base, tmp_path: Path) -> list[Path]:
    """Two LoRAs that meet in a layer; one changes what prompts say as well."""
    return [
        random_lora(tmp_path / "one.safetensors", base, 1, [QUERY, TEXT]),
        random_lora(tmp_path / "two.safetensors", base, 2, [QUERY]),
    ]


def always(*weights: float) -> company.Setting:
    return lambda step, steps: [Strength(weight) for weight in weights]


def test_it_is_the_error_of_the_predictions_on_the_picture(base: Base, files: list[Path]) -> None:
    placed = [lora_file.load(file, base).modules for file in files]
    rows = [(0.7, 0.5), (0.0, 0.5), (0.7, 0.0)]
    mix = Mix(base, placed)
    found = company.log_errors(
        mix, always(0.7, 0.0), [always(*row) for row in rows], SPEC, lambda: None
    )
    with torch.no_grad(), applied(base, [(placed[0], 0.7)]):
        latents = paint_latents(base, [SPEC], lambda _: None)
    for row, told in zip(rows, found, strict=True):
        logs = []
        with torch.no_grad(), applied(base, list(zip(placed, row, strict=True))):
            text = conditioning(base, [SPEC], guided=False)
            for number, at in enumerate((560, 685, 810, 935)):
                draw = generator(SPEC.seed, "company", number)
                noise = torch.randn(latents.shape, generator=draw)
                kept = float(base.alphas_cumprod[at])
                both = 0.0
                for own in (noise.to(latents), -noise.to(latents)):
                    seen = kept**0.5 * latents + (1 - kept) ** 0.5 * own
                    predicted = base.denoise(seen, torch.tensor(at, device=base.device), text)
                    both += float((predicted - own).square().mean()) / 2
                logs.append(torch.tensor(both).log())
        assert told == pytest.approx(float(torch.stack(logs).mean()), abs=1e-4)


def test_a_lora_beside_itself_is_as_one_and_order_does_not_count(
    base: Base, files: list[Path]
) -> None:
    one, two = (lora_file.load(file, base).modules for file in files)

    def errors(loras: Sequence[Any], *rows: Sequence[float]) -> list[float]:
        painted, *others = (always(*row) for row in rows)
        return company.log_errors(Mix(base, loras), painted, others, SPEC, lambda: None)

    halves = errors([one, one], (0.5, 0.5), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0))
    whole = errors([one, two], (1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (0.0, 0.0))
    assert halves == pytest.approx(whole, abs=1e-4)
    assert abs(whole[0] - whole[3]) > 1e-3  # and it does do something
    there = errors([one, two], (0.7, 0.4), (0.7, 0.4), (0.0, 0.4))
    back = errors([two, one], (0.4, 0.7), (0.4, 0.7), (0.4, 0.0))
    assert there == pytest.approx(back, abs=1e-4)


def test_a_lora_counts_in_its_part_of_the_steps(
    base: Base, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In what is painted, and at the noise levels of that part. Given up within a step."""
    told: list[Any] = []
    looks = 0

    def unwanted(job: str) -> bool:
        nonlocal looks
        looks += job == "left"
        return looks > SPEC.steps + 2

    monkeypatch.setattr(studio, "GOES_ON", 0.0)
    desk = Studio(torch.device("cpu"), told.append, unwanted)
    loras = [pipe.LoraFile(name=f.stem, path=str(f), weight=0.0) for f in files]
    early, late, off = (
        [LoraUse(lora="one", weight=weight, begin=begin, end=end), LoraUse(lora="two", weight=0.0)]
        for weight, begin, end in ((0.7, 0.0, 0.25), (0.7, 0.5, 1.0), (0.0, 0.0, 1.0))
    )
    order = pipe.Recognise(
        job="j", spec=SPEC, base_path="", loras=loras, painted=early, rows=[early, late, off]
    )
    desk.serve(order, lambda: base)
    of_early, of_late, of_none = told[-1].errors
    assert of_late == of_none != of_early  # what comes late has no part in the noisy half
    assert told.count(pipe.GoesOn(job="j")) == SPEC.steps + 3 * len(company.AT)

    asked = Mix(base, [lora_file.load(file, base).modules for file in files])

    def there(step: int, steps: int) -> list[Strength]:
        return [Strength(0.7) if step < 2 else OFF, OFF]

    assert company.log_errors(asked, there, [there], SPEC, lambda: None)[0] == pytest.approx(
        of_early, abs=1e-5
    )
    desk.serve(replace(order, painted=late), lambda: base)
    assert told[-1].errors != [of_early, of_late, of_none]
    desk.serve(replace(order, job="left"), lambda: base)
    assert told[-1].failure.code == Code.CANCELLED and looks == SPEC.steps + 3
