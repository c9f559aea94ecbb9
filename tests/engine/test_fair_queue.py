"""A run between pictures: those asked for in a row let it go on, a person's own is made at once."""

from __future__ import annotations

import pytest

from lora_daemon.engine import steering
from lora_daemon.engine.steering import Steering
from lora_daemon.pipe import Command, Paint, Steer
from shared.pictures import PictureSpec


def picture(job: str, *, patient: bool) -> Paint:
    return Paint(job=job, spec=PictureSpec(), base_path="", loras=[], out="", patient=patient)


class Queue:
    """The worker's queue, and what was put off."""

    def __init__(self, *commands: Command) -> None:
        self.commands = list(commands)
        self.later: list[Command] = []

    def take(self, wait: float | None) -> Command | None:
        return self.commands.pop(0) if self.commands else None

    def put_off(self, command: Command) -> None:
        self.later.append(command)

    def leaving(self, run: str) -> bool:
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(steering.time, "monotonic", lambda: now[0])
    return now


def at_work(queue: Queue, clock: list[float], made: list[str]) -> Steering:
    own = Steering("r0001", queue, lambda report: None)

    def serve(job: object) -> None:
        clock[0] += 4.0  # what a picture takes
        made.append(job.job)  # type: ignore[attr-defined]

    own.on_serve = serve
    return own


def test_of_many_pictures_the_next_waits_as_long_as_the_one_before_took(
    clock: list[float],
) -> None:
    made: list[str] = []
    queue = Queue(*(picture(name, patient=True) for name in "abc"))
    own = at_work(queue, clock, made)
    steps = 0
    while len(made) < 3:
        own.look()
        clock[0] += 0.5  # a step of the run
        steps += 1
    assert made == ["a", "b", "c"] and steps * 0.5 == pytest.approx(2 * 4.0, abs=1.1)


def test_what_a_person_waits_for_is_made_at_once(clock: list[float]) -> None:
    made: list[str] = []
    queue = Queue(*(picture(name, patient=True) for name in "ab"), picture("mine", patient=False))
    own = at_work(queue, clock, made)
    own.look()
    assert made[:2] == ["a", "mine"] and "b" not in made


def test_a_paused_run_gives_way_and_one_that_ends_leaves_what_waits(clock: list[float]) -> None:
    made: list[str] = []
    queue = Queue(*(picture(name, patient=True) for name in "abc"))
    own = at_work(queue, clock, made)
    own.look()
    own.leave_waiting()
    assert made == ["a"] and [one.job for one in queue.later] == ["b", "c"]  # type: ignore[union-attr]
    queue.commands = [picture("d", patient=True), Steer(run="r0001", action="pause"),
                      picture("e", patient=True), Steer(run="r0001", action="resume")]  # fmt: skip
    own.look()
    assert made == ["a", "d", "e"]
