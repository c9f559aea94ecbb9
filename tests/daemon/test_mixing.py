"""The live mix: changed by several, kept, painted for whoever watches."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from lora_daemon import mix_pictures, pipe
from lora_daemon.mix_pictures import hurried
from shared import mixes, wire
from shared.errors import Code, LoraError
from shared.mixes import MixLora, MixSpec
from shared.pictures import PictureSpec
from tests.daemon.house import House, opened, with_fake_worker


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path, "begun")
    async with opened(tmp_path, base=True) as house:
        await house.call(wire.ChangeMix(before=live(house).spec, after=MixSpec(base="base")))
        yield house


def live(house: House) -> wire.Mix:
    return house.domain.state().mixes[0]


def lora(folder: Path, name: str) -> str:
    path = folder / f"{name}.safetensors"
    path.write_bytes(b"of no interest to a worker that paints nothing")
    return str(path)


async def turn(house: House, by: str = "ada", **changes: object) -> wire.Mix:
    """Change the live mix as it is."""
    spec = live(house).spec
    return await house.call(wire.ChangeMix(before=spec, after=replace(spec, **changes)), by)


async def seen(house: House, true: Callable[[wire.MixView], bool]) -> list[wire.MixView]:
    """Watch until a view is as wanted; all that were seen."""
    views = [await house.call(wire.WatchMix())]
    async with asyncio.timeout(20):
        while not true(views[-1]):
            assert views[-1].failure is None or true(views[-1]), views[-1].failure
            views.append(await house.call(wire.WatchMix(seen=views[-1].token)))
    return views


def begun(tmp_path: Path) -> list[str]:
    return (tmp_path / "begun").read_text().splitlines()


# ── changing ────────────────────────────────────────────────────────────────────────────────────


async def test_two_clients_turn_different_loras_and_both_changes_stay(
    house: House, tmp_path: Path
) -> None:
    names = [lora(tmp_path, "a"), lora(tmp_path, "b")]
    both = await turn(house, loras=[MixLora(lora=name) for name in names])
    first, second = (
        mixes.with_lora(both.spec, MixLora(lora=name, weight=weight))
        for name, weight in zip(names, (0.3, 0.6), strict=True)
    )
    await house.call(wire.ChangeMix(before=both.spec, after=first), "ada")
    mix = await house.call(wire.ChangeMix(before=both.spec, after=second), "bob")
    assert [one.weight for one in mix.spec.loras] == [0.3, 0.6]
    assert mix.by == "bob" and mix.rev == both.rev + 2
    heard = [one.event.mix for one in house.heard if isinstance(one, wire.Journalled)
             and isinstance(one.event, wire.MixChanged)]  # fmt: skip
    assert heard[-1] == mix == live(house)


async def test_two_changes_of_one_weight_are_a_conflict_that_shows_the_other(
    house: House, tmp_path: Path
) -> None:
    name = lora(tmp_path, "a")
    before = (await turn(house, loras=[MixLora(lora=name)])).spec
    mine, theirs = (mixes.with_lora(before, MixLora(lora=name, weight=w)) for w in (0.2, 0.4))
    await house.call(wire.ChangeMix(before=before, after=theirs), "bob")
    with pytest.raises(LoraError) as caught:
        await house.call(wire.ChangeMix(before=before, after=mine), "ada")
    assert caught.value.code == Code.CONFLICT
    assert "bob has changed" in caught.value.message
    assert caught.value.data["current"]["spec"]["loras"][0]["weight"] == 0.4
    assert live(house).spec == theirs
    rev = live(house).rev
    await house.call(wire.ChangeMix(before=before, after=theirs), "ada")  # the same: no conflict
    assert live(house).rev == rev


async def test_a_lora_is_in_a_mix_once_whatever_it_is_called(house: House, tmp_path: Path) -> None:
    name = lora(tmp_path, "a")
    (tmp_path / "b.safetensors").symlink_to(name)
    with pytest.raises(LoraError) as caught:
        await turn(house, loras=[MixLora(lora=name), MixLora(lora=str(tmp_path / "b.safetensors"))])
    assert caught.value.code == Code.ALREADY_EXISTS and "in the mix already" in str(caught.value)
    with pytest.raises(LoraError) as caught:
        await turn(house, loras=[MixLora(lora="nowhere")])
    assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(LoraError) as caught:
        await turn(house, base="nowhere")
    assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(LoraError, match="multiples of 8"):
        await turn(house, width=100)
    assert live(house).spec == MixSpec(base="base")


async def test_the_other_side_is_kept_and_flipped_to(house: House) -> None:
    rev = (await turn(house, prompt="a cat")).rev
    flipped = await house.call(wire.FlipMix(if_rev=rev))
    assert flipped.side == "B" and flipped.spec.prompt == "a cat"
    await turn(house, prompt="a dog")
    assert (await house.call(wire.FlipMix(if_rev=rev + 2))).spec.prompt == "a cat"
    assert (await house.call(wire.FlipMix(if_rev=rev + 3))).spec.prompt == "a dog"
    with pytest.raises(LoraError) as caught:
        await house.call(wire.FlipMix(if_rev=rev))
    assert caught.value.code == Code.CONFLICT


async def test_mixes_are_saved_listed_and_forgotten(house: House) -> None:
    await turn(house, prompt="a cat")
    await house.call(wire.SaveMix(name="  of  cats "))
    await turn(house, prompt="a dog")
    await house.call(wire.SaveMix(name="dogs"))
    again = await house.call(wire.SaveMix(name="of cats"))
    assert (again.rev, again.spec.prompt) == (2, "a dog")
    assert [mix.name for mix in house.domain.state().mixes] == ["", "dogs", "of cats"]
    await house.call(wire.RemoveMix(name="dogs"))
    for name in ("", "dogs"):
        with pytest.raises(LoraError) as caught:
            await house.call(wire.RemoveMix(name=name))
        assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(LoraError):
        await house.call(wire.SaveMix(name=" "))


async def test_a_restarted_daemon_has_the_mix_and_paints_it(house: House, tmp_path: Path) -> None:
    name = lora(tmp_path, "a")
    mix = await turn(house, loras=[MixLora(lora=name, weight=0.3, muted=True)], seed=3)
    await seen(house, lambda view: view.stage == "done")
    mix = await turn(house, seed=4)
    await house.close()
    house.__init__(house.workspace.root)  # type: ignore[misc]
    await house.domain.start()
    assert live(house) == mix
    assert [one.spec.seed for one in house.domain.state().tried] == [3]
    assert (await seen(house, lambda view: view.stage == "done"))[-1].picture_rev == mix.rev


# ── painting ────────────────────────────────────────────────────────────────────────────────────


async def test_a_change_is_painted_in_few_steps_and_then_in_all(
    house: House, tmp_path: Path
) -> None:
    mix = await turn(house, seed=1)
    views = await seen(house, lambda view: view.stage == "done")
    shown = [(view.sharp, view.picture_rev) for view in views if view.picture]
    assert shown[-1] == (True, mix.rev)
    assert begun(tmp_path) == [f"began 1 {mix_pictures.PREVIEW_STEPS}", "began 1 20"]
    await turn(house, steps=8)  # no more than a preview would cost
    await seen(house, lambda view: view.stage == "done" and view.rev == mix.rev + 1)
    assert begun(tmp_path)[2:] == ["began 1 8"]
    kept = {path.stem for path in (house.workspace.cache / "mix").iterdir()}
    assert kept == {one.id for one in house.domain.state().tried}  # and no preview


async def test_nothing_is_painted_while_nobody_watches(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await turn(house, seed=2)
    assert not (tmp_path / "begun").exists() and house.domain.workers()[0].state == "absent"


async def test_a_newer_change_gives_the_older_picture_up(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "hold")
    await turn(house, seed=1)
    views = await seen(house, lambda view: view.stage == "full")
    assert not views[-1].sharp and views[-1].picture  # the preview is there
    mix = await turn(house, seed=2)
    views = await seen(house, lambda view: view.stage == "done")
    assert views[-1].picture_rev == mix.rev
    assert begun(tmp_path)[1:3] == ["began 1 20", "gave up 1 20"]
    assert begun(tmp_path)[3:] == ["began 2 6", "began 2 20"]
    assert [one.spec.seed for one in house.domain.state().tried] == [2]


async def test_what_a_picture_waits_for_is_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "hold")
    await turn(house, seed=1)
    views = await seen(house, lambda view: bool(view.before))
    assert (views[-1].before, views[-1].steps) == ("loading base", 0)
    assert all(not view.steps for view in views if view.stage == "preview")  # none is begun yet
    await turn(house, seed=2)
    assert not (await seen(house, lambda view: view.stage == "done"))[-1].before


async def test_what_was_tried_is_shown_again_without_painting(house: House, tmp_path: Path) -> None:
    first = await turn(house, seed=1)
    await seen(house, lambda view: view.stage == "done")
    await turn(house, seed=2)
    await seen(house, lambda view: view.stage == "done" and view.picture_rev == first.rev + 1)
    count = len(begun(tmp_path))
    back = await turn(house, seed=1)
    views = await seen(house, lambda view: view.stage == "done" and view.rev == back.rev)
    tried = house.domain.state().tried
    assert views[-1].picture == tried[0].id and len(tried) == 2
    assert len(begun(tmp_path)) == count


async def test_only_so_many_tried_mixes_are_kept(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mix_pictures, "KEPT", 2)
    for seed in (1, 2, 3):
        rev = (await turn(house, seed=seed, steps=1)).rev
        await seen(house, lambda view, rev=rev: view.stage == "done" and view.rev == rev)  # type: ignore[misc]
    assert [one.spec.seed for one in house.domain.state().tried] == [2, 3]
    assert len(list((house.workspace.cache / "mix").iterdir())) == 2


async def test_a_lora_that_goes_away_is_said_and_the_rest_is_painted(
    house: House, tmp_path: Path
) -> None:
    names = [lora(tmp_path, "a"), lora(tmp_path, "b")]
    await turn(house, loras=[MixLora(lora=name) for name in names], steps=1)
    await seen(house, lambda view: view.stage == "done")
    os.unlink(names[0])
    mix = await turn(house, seed=9)  # which the LoRA that is gone does not keep from being changed
    views = await seen(house, lambda view: view.stage == "done" and view.rev == mix.rev)
    assert any("Painted without" in note and "a.safetensors" in note for note in views[-1].notes)
    assert len(live(house).spec.loras) == 2


async def test_a_base_that_is_gone_is_said_and_painted_once_it_is_back(
    house: House, tmp_path: Path
) -> None:
    shutil.move(tmp_path / "base", tmp_path / "away")
    await house.domain._library.start()
    mix = await turn(house, seed=5)
    views = await seen(house, lambda view: view.stage == "failed")
    failure = views[-1].failure
    assert failure is not None and "There is no folder" in failure.message
    shutil.move(tmp_path / "away", tmp_path / "base")
    await house.domain._library.start()
    await house.call(wire.WatchMix(seen=views[-1].token, again=True))
    views = await seen(house, lambda view: view.stage == "done")
    assert views[-1].picture_rev == mix.rev and views[-1].failure is None


async def test_a_worker_killed_while_mixing_is_replaced_and_the_mix_painted(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "hold")
    mix = await turn(house, seed=1)
    await seen(house, lambda view: view.stage == "full")
    monkeypatch.setenv("FAKE_WORKER", "obey")
    os.kill(house.domain._seats.first.supervisor.pid, signal.SIGKILL)
    views = await seen(house, lambda view: view.stage in ("done", "failed"))
    assert (views[-1].stage, views[-1].picture_rev) == ("done", mix.rev)
    assert live(house) == mix


def test_a_distilled_preview_is_guided_along_loras_in_proportion() -> None:
    own = pipe.LoraFile(path="/a", name="a", weight=1.0, guidance=2.5)
    fast = pipe.LoraFile(path="/lcm", name="lcm", weight=1.0)
    paint = pipe.Paint(job="m", base_path="/base", loras=[own], spec=PictureSpec(), out="/m.png")
    assert hurried(paint, fast, 5.0).loras[0].guidance == 0.5
    assert hurried(paint, fast, 0.0).loras[0].guidance == 2.5
    plain = hurried(paint, None, 5.0)
    assert plain.loras == [own] and plain.guided < 1
