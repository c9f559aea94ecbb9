"""Pictures: every sampler, guidance, sizes, precision of the request."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import paint, sized
from shared.errors import Code, LoraError
from shared.pictures import PictureSpec
from shared.recipe import Sampler


def _paint(base: Base, **spec: object) -> bytes:
    wanted = PictureSpec(**{"prompt": "a thing", "steps": 4, "seed": 3, **spec})  # type: ignore[arg-type]
    return paint(base, [wanted], lambda _: None)[0].tobytes()


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_every_sampler_paints_the_same_picture_twice(sampler: Sampler, base: Base) -> None:
    torch.manual_seed(1)
    first = _paint(base, sampler=sampler)
    torch.manual_seed(2)  # no sampler draws from the global generator
    assert _paint(base, sampler=sampler) == first


def test_samplers_differ(base: Base) -> None:
    assert len({_paint(base, sampler=sampler) for sampler in get_args(Sampler)}) == 38


def test_prompt_negative_seed_and_cfg_all_matter(base: Base) -> None:
    pictures = [
        _paint(base),
        _paint(base, prompt="another"),
        _paint(base, negative="a blur"),
        _paint(base, seed=4),
        _paint(base, cfg=2.0),
        _paint(base, cfg=1.0),
        _paint(base, steps=5),
    ]
    assert len(set(pictures)) == len(pictures)


def test_without_guidance_the_negative_prompt_is_not_read(base: Base) -> None:
    assert _paint(base, cfg=1.0, negative="a blur") == _paint(base, cfg=1.0)


def test_the_later_steps_of_a_preview_are_not_guided(base: Base) -> None:
    """They cost half, and are as they would be without guidance."""
    rows: list[int] = []
    hook = base.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    spec = PictureSpec(prompt="a thing", negative="a blur", steps=4, seed=3)
    pictures = [
        paint(base, [spec], lambda _: None, until=until)[0].tobytes() for until in (1.0, 0.5, 0.0)
    ]
    hook.remove()
    assert rows == [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]
    assert len(set(pictures)) == 3 and pictures[2] == _paint(base, cfg=1.0)


def test_a_picture_in_a_batch_is_nearly_the_one_made_alone(base: Base) -> None:
    specs = [PictureSpec(prompt=f"thing {n}", steps=3, seed=n, sampler="Euler a") for n in range(3)]
    together = paint(base, specs, lambda _: None)
    for spec, picture in zip(specs, together, strict=True):
        alone = paint(base, [spec], lambda _: None)[0]
        pairs = zip(alone.tobytes(), picture.tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 2


def test_progress_counts_the_steps_asked_for(base: Base) -> None:
    for sampler in ("Euler", "Heun"):
        counted: list[int] = []
        paint(base, [PictureSpec(steps=5, sampler=sampler)], counted.append)  # type: ignore[arg-type]
        assert counted[-1] == 5 and counted == sorted(counted)


def test_sizes(base: Base) -> None:
    assert sized(PictureSpec(), base) == (64, 64)
    assert sized(PictureSpec(width=128, height=72), base) == (128, 72)
    for width in (65, 8):
        with pytest.raises(LoraError) as refused:
            sized(PictureSpec(width=width), base)
        assert refused.value.code is Code.BAD_REQUEST
