"""A real worker process, driven through a real pipe as the daemon drives it: for tests.

Importing torch takes seconds, so workers are forked from one process that has it imported and has
done nothing else. ``fresh=True`` starts one as the daemon does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from PIL import Image, ImageDraw

from lora_daemon import pipe
from shared import recipe as recipes

R = TypeVar("R")
REPOSITORY = Path(__file__).parents[2]


class Worker:
    """Starts a worker; ``until`` waits for a report, keeping all that came before in ``seen``."""

    def __init__(self, threads: int = 1, fresh: bool = False) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.pid = (_start if fresh else _fork)(theirs, str(threads))
        self._pidfd = os.pidfd_open(self.pid)
        self.socket = ours
        self.socket.settimeout(120)
        self.seen: list[Any] = []

    def send(self, command: pipe.Command) -> None:
        self.socket.sendall(pipe.frame(command))

    def steer(self, action: Any, run: str = "r1") -> None:
        self.send(pipe.Steer(run=run, action=action))

    def read(self) -> Any:
        """The next report. Raises EOFError when the worker has ended."""
        try:
            body = pipe.received(self.socket)
        except ConnectionResetError:
            raise EOFError("the worker has ended") from None
        report = pipe.report_decoder.decode(body)
        self.seen.append(report)
        return report

    def until(self, kind: type[R], condition: Callable[[R], bool] = lambda _: True) -> R:
        """Read until a report of this kind. A failure, or the end of the run, that nobody waits
        for fails the test."""
        while True:
            report = self.read()
            if isinstance(report, kind) and condition(report):
                return report
            over = pipe.RunFailed | pipe.PaintFailed | pipe.Finished
            assert not isinstance(report, over), report

    def of(self, kind: type[R]) -> list[R]:
        return [report for report in self.seen if isinstance(report, kind)]

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        wait_for(lambda: self.ended)

    @property
    def ended(self) -> bool:
        """Whether the process is gone, with all its threads."""
        return bool(select.select([self._pidfd], [], [], 0)[0])

    def close(self) -> None:
        self.socket.close()
        try:
            wait_for(lambda: self.ended, 20)
        except AssertionError:
            self.kill()
            raise
        finally:
            os.close(self._pidfd)


def _start(theirs: socket.socket, threads: str) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_daemon.engine.worker", "--fd", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        cwd=REPOSITORY,
        env={**os.environ, "LORA_TUI_THREADS": threads},
    )
    return process.pid


def _fork(theirs: socket.socket, threads: str) -> int:
    socket.send_fds(_nursery(), [threads.encode()], [theirs.fileno()])
    return int(_nursery().recv(32))


@functools.cache
def _nursery() -> socket.socket:
    """The process that workers are forked from. It ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", "tests.engine.nursery", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=REPOSITORY,
        )
    return ours


@contextlib.contextmanager
def worker(**options: Any) -> Iterator[Worker]:
    one = Worker(**options)
    try:
        yield one
    finally:
        one.close()


def pictures(folder: Path, count: int = 4, side: int = 80) -> list[pipe.FrozenPicture]:
    """Small drawn pictures in ``folder``, frozen as the daemon freezes them."""
    folder.mkdir(parents=True, exist_ok=True)
    frozen = []
    for number in range(count):
        path = folder / f"{number}.png"
        picture = Image.new("RGB", (side, side + 8 * number), (40 * number % 256, 90, 160))
        ImageDraw.Draw(picture).ellipse((8, 8, 20 + 9 * number, 50), fill=(250, 200, 30 * number))
        picture.save(path)
        frozen.append(freeze_picture(path, f"a drawing of thing {number}"))
    return frozen


def freeze_picture(path: Path, caption: str) -> pipe.FrozenPicture:
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return pipe.FrozenPicture(item=path.stem, path=str(path), content=content, caption=caption)


def prepare(
    run_dir: Path, base: Path, frozen: list[pipe.FrozenPicture], /, **sections: dict[str, Any]
) -> pipe.Train:
    """A run directory as the daemon makes it, and the order to train it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    sections.setdefault("dataset", {}).setdefault("name", "things")
    sections.setdefault("network", {"rank": 4, "alpha": 2.0})
    recipe = recipes.convert({**sections})
    (run_dir / "recipe.toml").write_text(recipes.dump(recipe))
    several = recipes.versions(recipe)
    freeze = pipe.Freeze(
        run="r1", name="things", base="tiny", base_path=str(base), dataset="things",
        pictures=frozen, skipped=[], queued_at=1_700_000_000.0,
        versions=[several] * len(frozen) if several > 1 else [],
    )  # fmt: skip
    (run_dir / "freeze.json").write_bytes(msgspec.json.encode(freeze))
    return pipe.Train(run="r1", run_dir=str(run_dir), cache_dir=str(run_dir.parent / "cache"))


def train(order: pipe.Train, **options: Any) -> Worker:
    """Train in a worker of its own, to the end; the ended worker has all reports in ``seen``."""
    with worker(**options) as one:
        one.send(order)
        one.until(pipe.Finished)
    return one


def content(order: pipe.Train, name: str = "things") -> tuple[bytes, dict[str, str]]:
    """A run's LoRA: its bytes behind the header, and its metadata less the finish time."""
    from shared.safetensors_file import read_header

    path = Path(order.run_dir) / "lora" / f"{name}.safetensors"
    header = read_header(path)
    metadata = {k: v for k, v in header.metadata.items() if k != "ss_training_finished_at"}
    return path.read_bytes()[header.data_start :], metadata


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.01)
