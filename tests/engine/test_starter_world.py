"""The world: the same seed draws the same picture, and what is held out never teaches the base."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from lora_daemon.starter import world


def test_the_same_seed_draws_the_same_pixels_and_words() -> None:
    first, second = (list(world.scenes(6, seed=21)) for _ in range(2))
    assert first == second
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(np.asarray(world.draw(one)), np.asarray(world.draw(other)))
        assert world.caption(one) == world.caption(other)
    assert list(world.scenes(6, seed=22)) != first


def test_the_world_is_as_wide_as_promised() -> None:
    assert len(world.OBJECTS) >= 16
    assert len(world.COLOURS) >= 10
    assert len(world.BACKGROUNDS) >= 6
    every = world.combinations("any")
    assert len(world.held_out()) == round(len(every) / 10)
    assert len(world.CONTENTS) >= 4
    assert len(world.STYLES) >= 4
    assert not set(world.CONTENTS) & set(world.OBJECTS)


def test_held_out_combinations_are_never_trained_on() -> None:
    forbidden = world.held_out()
    for scene in world.scenes(4000, seed=4, crowd=0.3):
        assert scene.combination not in forbidden
        if scene.other:
            assert (*scene.other, scene.background) not in forbidden
        assert not set(world.CONTENTS) & set(world.caption(scene).split())
    assert {scene.combination for scene in world.scenes(300, seed=4, split="held-out")} == forbidden


def test_captions_vary_in_wording_and_name_object_and_colour() -> None:
    scenes = list(world.scenes(400, seed=23, crowd=0))
    captions = [world.caption(scene) for scene in scenes]
    openings = {" ".join(caption.split()[:2]) for caption in captions}
    assert len(openings) > 12
    for scene, caption in zip(scenes, captions, strict=True):
        assert scene.colour in caption
        assert scene.thing in caption
        assert any(where in caption for where in world.GROUNDS[scene.background])


@pytest.mark.parametrize("colour", world.COLOURS)
def test_objects_show_their_colour(colour: str) -> None:
    scene = world.Scene("ball", colour, "snow", radius=40)
    middle = np.asarray(world.draw(scene))[64:80, 56:72].reshape(-1, 3).mean(axis=0)
    paints = {name: np.abs(middle - rgb).sum() for name, rgb in world.drawing.PAINTS.items()}
    assert min(paints, key=lambda name: paints[name]) == colour


@pytest.mark.parametrize("style", world.STYLES)
def test_a_style_changes_every_picture_alike_each_time(style: str) -> None:
    for scene in world.scenes(3, seed=24):
        plain, styled, again = (
            np.asarray(world.draw(scene, look)).astype(int) for look in (None, style, style)
        )
        assert np.array_equal(styled, again)
        assert np.abs(styled - plain).mean() > 8
        assert style in world.caption(scene, style)


@pytest.mark.parametrize("content", world.CONTENTS)
def test_a_content_is_drawn_in_the_colour_asked_for(content: str) -> None:
    red, blue = (
        np.asarray(world.draw(world.Scene(content, colour, "snow", radius=44))).astype(int)
        for colour in ("red", "blue")
    )
    assert (red[..., 0] - red[..., 2] > 80).mean() > 0.1
    assert (blue[..., 2] - blue[..., 0] > 80).mean() > 0.1


def test_a_style_nobody_knows_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no style is called 'oil'.*pencil, neon"):
        world.draw(world.Scene("ball", "red", "snow"), "oil")


def test_a_pencil_sketch_is_grey() -> None:
    sketch = np.asarray(world.draw(next(world.scenes(1, seed=24)), "pencil")).astype(int)
    assert (sketch.max(axis=2) - sketch.min(axis=2)).max() == 0
    assert sketch.std() > 10


def test_the_package_and_its_world_import_without_torch() -> None:
    code = (
        "import sys; from lora_daemon.starter import base_dir, datasets, world;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
