"""A worker that hangs is noticed by its silence and ended; one that may be silent is left alone."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from lora_daemon import pipe, watchdog
from lora_daemon.watchdog import DEAD, LIMITS, STEPS, Silence
from shared import wire
from shared.errors import Code, Failure, LoraError
from shared.pictures import PictureSpec
from tests.daemon.house import House, hollow_base, with_fake_worker
from tests.daemon.process import pictures

MEMORY = pipe.Memory(allocated=0, cached=0, peak=0)


def phase(name: str) -> pipe.Phase:
    return pipe.Phase(run="r1", phase=name)  # type: ignore[arg-type]


def tick() -> pipe.Tick:
    return pipe.Tick(run="r1", step=1, steps=2, epoch=1, epochs=1, points=[], speed=0.0)


def beating(silence: Silence, begin: float, end: float) -> str:
    """What is said at the end of a time in which only the memory is told."""
    now = begin
    while now < end:
        now = min(end, now + 60)
        silence.hear(MEMORY, now)
    return silence.too_long(now)


@pytest.mark.parametrize("name", list(LIMITS))
def test_a_run_at_work_must_say_something_now_and_then(name: str) -> None:
    silence = Silence(0.0)
    silence.hear(phase(name), 10.0)
    assert not beating(silence, 10.0, 10.0 + LIMITS[name])
    said = beating(silence, 10.0 + LIMITS[name], 20.0 + LIMITS[name])
    assert f"has been {name} for" in said and "minutes" in said


def test_what_waits_for_a_person_may_be_silent_but_not_dead() -> None:
    for report in (phase("paused"), pipe.Finished(run="r1", outcome="finished", step=1, loss=0.0)):
        silence = Silence(0.0)
        silence.hear(phase("training"), 1.0)
        silence.hear(report, 2.0)
        assert not beating(silence, 2.0, 1e6)
        assert "no sign of life" in silence.too_long(1e6 + DEAD + 1)


def test_slow_steps_are_given_their_time() -> None:
    silence = Silence(0.0)
    silence.hear(phase("training"), 0.0)
    beating(silence, 0.0, 1000.0)
    silence.hear(tick(), 1000.0)
    assert not beating(silence, 1000.0, 1000.0 + STEPS * 1000)
    assert beating(silence, 1000.0 + STEPS * 1000, 1100.0 + STEPS * 1000)


def test_the_limits_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_TUI_WORKER_SILENCE", "5")
    silence = Silence(0.0)
    silence.hear(phase("caching"), 0.0)
    silence.hear(MEMORY, 5.0)
    assert silence.too_long(6.0)
    monkeypatch.setenv("LORA_TUI_WORKER_SILENCE", "soon")
    assert watchdog.limits() == (LIMITS, DEAD)


PAINT = pipe.Paint(job="j1", spec=PictureSpec(base="b", prompt="a"), base_path="", loras=[], out="")


def test_a_picture_must_get_on_too_from_when_it_was_asked_for_to_its_answer() -> None:
    silence = Silence(0.0)
    later = 5 * LIMITS["sampling"]  # idle until then
    beating(silence, 0.0, later)
    silence.asked(PAINT, later)
    beating(silence, later, later + 3000)
    silence.asked(replace(PAINT, job="j2"), later + 3000)  # does not excuse the first
    said = beating(silence, later + 3000, later + LIMITS["sampling"] + 60)
    assert "has been painting for 61 minutes without" in said
    silence.hear(pipe.GoesOn(job="j1"), later + 3700)
    assert not beating(silence, later + 3700, later + 7000)
    failed = pipe.PaintFailed(job="j1", failure=Failure(code=Code.CANCELLED, message=""))
    silence.hear(failed, later + 7000)
    assert beating(silence, later + 7000, later + 7000 + LIMITS["sampling"] + 60)  # j2
    silence.hear(replace(failed, job="j2"), later + 11000)
    assert not beating(silence, later + 11000, 1e6)
    silence.hear(phase("training"), 1e6)  # beside a run the longer of the two counts
    silence.asked(PAINT, 1e6)
    assert not beating(silence, 1e6, 1e6 + LIMITS["training"] + 60)


async def test_a_picture_whose_worker_hangs_is_made_by_another_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fake_worker(monkeypatch, tmp_path)
    monkeypatch.setenv("FAKE_WORKER", "hold")
    house = House(tmp_path / "home")
    await house.domain.start()
    dog = house.domain._watchdogs[0]
    clock, ahead, ended = dog._clock, 0.0, 0
    monkeypatch.setattr(dog, "_clock", lambda: clock() + ahead)

    async def hang() -> None:
        """Another worker paints; the dog looks after an hour of beats alone."""
        nonlocal ahead, ended
        workers = house.domain.workers
        await house.until(lambda: workers()[0].state == "painting" and workers()[0].pid != ended)
        ended, ahead = workers()[0].pid, ahead + LIMITS["sampling"] + 60
        dog._heard(MEMORY)
        dog._looked = dog._clock()
        dog.look()

    try:
        await house.call(wire.AddBase(path=str(hollow_base(tmp_path / "base"))))
        spec = PictureSpec(base="base", prompt="a dragon", steps=20)
        picture = asyncio.create_task(house.call(wire.Generate(spec=spec)))
        await hang()
        await hang()
        with pytest.raises(LoraError, match="has been painting for 61 minutes") as caught:
            await picture
        assert caught.value.code is Code.WORKER_FAILED and caught.value.retryable
        monkeypatch.setenv("FAKE_WORKER", "obey")
        assert (await house.call(wire.Generate(spec=spec))).width == 8
    finally:
        await house.close()


async def test_a_stopped_worker_is_ended_and_its_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fake_worker(monkeypatch, tmp_path)
    house = House(tmp_path / "home")
    await house.domain.start()
    try:
        await house.call(wire.ImportDataset(path=str(pictures(tmp_path / "set", 2))))
        await house.call(wire.AddBase(path=str(hollow_base(tmp_path / "base"))))
        await house.call(wire.StartRun(
            recipe='[base]\nname = "base"\n[dataset]\nname = "set"\n'
        ))  # fmt: skip
        await house.until(lambda: house.run().state == "training")
        pid = house.domain.workers()[0].pid
        os.kill(pid, signal.SIGSTOP)
        dog = house.domain._watchdogs[0]
        begun = dog._clock()
        dog.look()
        assert house.domain.workers()[0].pid == pid  # not too long yet
        dog._looked = begun + DEAD
        monkeypatch.setattr(dog, "_clock", lambda: begun + DEAD + 1)
        dog.look()
        monkeypatch.undo()
        with_fake_worker(monkeypatch, tmp_path)
        await house.until(lambda: house.run().restarts == 1)
        await house.until(lambda: house.run().state == "training")
        assert house.domain.workers()[0].pid != pid
        log = "\n".join(house.domain.run_log("r0001", 100))
        assert "no sign of life for 10 minutes" in log and "a hung driver or disk" in log
    finally:
        await house.close()
