"""The worker dies, hangs about or is not there: what becomes of its run and its pictures."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lora_daemon import supervisor
from shared import wire
from shared.errors import Code, LoraError
from shared.pictures import PictureSpec
from tests.daemon.house import House, opened, with_fake_worker

RECIPE = '[base]\nname = "base"\n[dataset]\nname = "set"\n'
Spec = PictureSpec(base="base", prompt="a dragon")


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path)
    async with opened(tmp_path, pictures=2, base=True) as house:
        yield house


async def test_a_worker_that_dies_again_and_again_fails_the_run_with_its_last_words(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "die")
    await house.call(wire.StartRun(recipe=RECIPE))
    await house.until(lambda: house.run().state == "failed")
    message = house.run().message
    assert "4 times in a row" in message
    assert "killed by signal 9" in message
    assert "the device is on fire" in message
    restarts = {e.event.run.restarts for e in house.heard if isinstance(e, wire.Journalled)
                and isinstance(e.event, wire.RunChanged)}  # fmt: skip
    assert restarts == {0, 1, 2, 3}
    assert "the device is on fire" in "\n".join(house.domain.run_log("r0001", 100))
    monkeypatch.setenv("FAKE_WORKER", "obey")  # and it can be taken up again
    await house.call(wire.SteerRun(run="r0001", action="resume"))
    await house.until(lambda: house.run().state == "training")
    assert house.run().restarts == 0


async def test_a_worker_that_dies_once_gets_its_run_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "die once")
    await house.call(wire.StartRun(recipe=RECIPE))
    await house.until(lambda: house.run().state == "training")
    assert house.run().restarts == 1


async def test_a_picture_is_tried_twice_and_then_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "die once")
    picture = await house.call(wire.Generate(spec=Spec))
    assert (picture.width, picture.parameters) == (8, "text")
    await house.domain._seats.first.supervisor.end(now=True)
    monkeypatch.setenv("FAKE_WORKER", "die")
    with pytest.raises(LoraError) as caught:
        await house.call(wire.Generate(spec=Spec))
    assert caught.value.code == Code.WORKER_FAILED
    assert caught.value.retryable
    assert len(house.domain.state().pictures) == 1


async def test_an_idle_worker_ends_and_the_next_need_begins_another(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "IDLE", 0.0)
    await house.call(wire.Generate(spec=Spec))
    await house.until(lambda: house.domain.workers()[0].state == "absent")
    assert not house.domain.workers()[0].message  # it was no failure
    await house.call(wire.Generate(spec=Spec))


async def test_a_paused_run_whose_worker_dies_stays_paused_and_can_go_on(house: House) -> None:
    await house.call(wire.StartRun(recipe=RECIPE))
    await house.until(lambda: house.run().state == "training")
    run = await house.call(wire.SteerRun(run="r0001", action="pause"))
    assert run.state == "paused"
    os.kill(house.domain.workers()[0].pid, signal.SIGKILL)
    await house.until(lambda: house.domain.workers()[0].state == "failed")
    assert house.run().state == "paused"
    await house.call(wire.SteerRun(run="r0001", action="resume"))
    await house.until(lambda: house.run().state == "training")


async def test_without_the_engine_the_run_says_what_to_install(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    await house.call(wire.StartRun(recipe=RECIPE))
    assert house.run().state == "failed"
    assert "lora-tui[engine]" in house.run().message


async def test_a_worker_gives_way_to_the_daemon(house: House) -> None:
    await house.call(wire.Generate(spec=Spec))
    pid = house.domain.workers()[0].pid
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
    assert oom_score(pid) >= supervisor.OOM_SCORE
    assert os.getsid(pid) == pid


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def test_closing_suspends_the_run_and_the_next_daemon_goes_on(
    house: House, tmp_path: Path
) -> None:
    await house.call(wire.StartRun(recipe=RECIPE))
    await house.until(lambda: house.run().state == "training")
    await house.domain.close(now=False)
    assert house.run().state == "interrupted"
    again = House(tmp_path / "home")
    await again.domain.start()
    try:
        await again.until(lambda: again.run().state == "training")
    finally:
        await again.close()
