"""A full disk: nothing is torn, the work stays in memory, the run goes on when there is room."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_daemon import pipe
from lora_daemon.engine.resume import States
from shared.errors import Code, LoraError
from shared.files import publish
from tests.engine import worker_process as work

SIZE = 4 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(disk: Path) -> Path:
    """Fill the disk to its last byte, and see that writing then fails."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space"):
        (disk / "more").write_bytes(b"\0" * 4096)
    (disk / "more").unlink()
    return ballast


def test_publishing_to_a_full_disk_leaves_the_old_file_whole(small_disk: Path) -> None:
    path = small_disk / "kept.bin"
    publish(path, b"old" * 1000)
    _fill(small_disk)
    with pytest.raises(LoraError) as refused:
        publish(path, b"new" * 10_000)
    assert refused.value.code is Code.STORAGE and "disk is full" in refused.value.message
    assert path.read_bytes() == b"old" * 1000
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "kept.bin"]


def test_a_run_on_a_full_disk_waits_and_ends_with_the_same_bytes(
    small_disk: Path, tmp_path: Path, base_path: Path
) -> None:
    frozen = work.pictures(tmp_path / "pictures")
    recipe = {"training": {"epochs": 40}, "save": {"resume_seconds": 0.05}}
    unbroken = work.prepare(tmp_path / "unbroken", base_path, frozen, **recipe)
    work.train(unbroken)
    order = work.prepare(small_disk / "run", base_path, frozen, **recipe)
    with work.worker() as one:
        one.send(order)
        one.until(pipe.StateSaved)
        ballast = _fill(small_disk)
        assert one.until(pipe.NoSpace).needed > 0  # the daemon may make room, before anything else
        assert len(list((small_disk / "run" / "state").glob("step*"))) == 1
        one.steer("resume")
        notice = one.until(pipe.Notice)
        assert "disk is full" in notice.message and "in memory" in notice.message
        one.until(pipe.Phase, lambda told: told.phase == "paused")
        assert States(small_disk / "run" / "state").newest()[0] is not None
        ballast.unlink()
        one.steer("resume")  # try again now
        one.until(pipe.Finished)
    assert "room on the disk again" in one.of(pipe.Notice)[-1].message
    assert work.content(order) == work.content(unbroken)
    rows = (small_disk / "run" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(step) for step in range(1, 161)]


def test_a_run_that_is_given_room_goes_on_without_a_word(
    small_disk: Path, tmp_path: Path, base_path: Path
) -> None:
    order = work.prepare(
        small_disk / "run", base_path, work.pictures(tmp_path / "pictures"),
        training={"epochs": 40}, save={"resume_seconds": 0.05},
    )  # fmt: skip
    with work.worker() as one:
        one.send(order)
        one.until(pipe.StateSaved)
        ballast = _fill(small_disk)
        one.until(pipe.NoSpace)
        ballast.unlink()
        one.steer("resume")
        one.until(pipe.Finished)
    assert not one.of(pipe.Notice)


def test_a_run_stopped_on_a_full_disk_fails_and_its_last_state_stays_good(
    small_disk: Path, tmp_path: Path, base_path: Path
) -> None:
    order = work.prepare(
        small_disk / "run", base_path, work.pictures(tmp_path / "pictures"),
        training={"epochs": 10_000}, save={"resume_seconds": 0.05},
    )  # fmt: skip
    with work.worker() as one:
        one.send(order)
        one.until(pipe.StateSaved)
        ballast = _fill(small_disk)
        one.until(pipe.Phase, lambda told: told.phase == "paused")
        one.steer("stop")
        failed = one.until(pipe.RunFailed)
        assert failed.failure.code is Code.STORAGE and failed.failure.retryable
        state, damaged = States(small_disk / "run" / "state").newest()
        assert state is not None and not damaged
        ballast.unlink()
        one.send(order)
        assert one.until(pipe.Resumed).step == state.progress.step
