"""``kill -9`` of client, worker and daemon at random moments, and the count of what survived.

    python -m tests.faults.campaign --work DIR --kills 30 --seed 1

DIR keeps the workspace and the tally: the same command again goes on where it was broken off.
Meanwhile a client edits captions and logs each acknowledged edit outside the workspace. At the end
no acknowledged edit may be missing, none may have been made twice, every folder whose import was
killed must be whole once it is imported again, and every run must end with the bytes of a run that
nobody disturbed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
from PIL import Image

from shared import launch, wire
from shared.client import Client
from shared.errors import LoraError
from shared.safetensors_file import read_header

Victim = Literal["client", "worker", "daemon"]
Moment = Literal["import", "caching", "step", "checkpoint", "sample"]

MOMENTS: tuple[Moment, ...] = ("import", "caching", "step", "checkpoint", "sample")
VICTIMS: dict[Moment, tuple[Victim, ...]] = {
    "import": ("client", "daemon"),
    "caching": ("worker", "daemon", "client"),
    "step": ("worker", "daemon", "client"),
    "checkpoint": ("worker", "daemon", "worker"),
    "sample": ("worker", "daemon", "worker"),
}
PHASES = {"caching": "caching", "step": "training", "checkpoint": "saving", "sample": "sampling"}
PATIENCE = 300.0  # seconds for anything on a busy machine
IMPORTED = 400  # pictures of a folder whose import is killed
RECIPE = """
[base]
name = "tiny"
[dataset]
name = "trained"
[network]
rank = 2
alpha = 2.0
[training]
max_steps = 60
epochs = 1000
[save]
every_steps = 6
resume_seconds = 0.05
[sample]
prompts = ["a thing"]
steps = 3
every_epochs = 0
every_steps = 9
[output]
name = "lora"
"""


class Kill(msgspec.Struct, frozen=True):
    """One kill that happened: ``seen`` is the phase that was last reported before it."""

    victim: str
    moment: str
    run: str
    seen: str
    at: float


class Tally(msgspec.Struct):
    """What a campaign remembers between two starts."""

    seed: int
    kills: list[Kill] = []
    imports: list[str] = []  # folders whose import was killed
    edits: int = 0  # editors begun; each numbers its edits from a million on


class Campaign:
    """A workspace under fire."""

    def __init__(self, work: Path, seed: int, base: Path | None = None) -> None:
        self.work = work
        self.home = work / "home"
        self.log = work / "acknowledged.log"
        self._file = work / "tally.json"
        work.mkdir(parents=True, exist_ok=True)
        self.tally = (
            msgspec.json.decode(self._file.read_bytes(), type=Tally)
            if self._file.exists()
            else Tally(seed)
        )
        self._base = base or work / "base" / "tiny"
        self._client: Client | None = None
        self._editor: subprocess.Popen[bytes] | None = None

    # ── the course of it ────────────────────────────────────────────────────────────────────────

    async def run(self, kills: int) -> None:
        """Reach ``kills`` in all, then verify. Raises AssertionError naming what was lost."""
        await self._prepare()
        try:
            while (number := len(self.tally.kills)) < kills:
                dice = random.Random(f"{self.tally.seed}/{number}")
                moment = MOMENTS[number % len(MOMENTS)]
                victim = VICTIMS[moment][number // len(MOMENTS) % len(VICTIMS[moment])]
                kill = await (
                    self._kill_importing(victim, dice)
                    if moment == "import"
                    else self._kill_training(victim, moment, dice)
                )
                self.tally.kills.append(kill)
                self._save()
                print(f"{number + 1:3} {kill.victim:7} during {kill.moment:10} of {kill.run or '-'}"
                      f" (last seen: {kill.seen})", flush=True)  # fmt: skip
            await self._verify()
        finally:
            await self._end()

    async def _prepare(self) -> None:
        os.environ.setdefault("LORA_TUI_THREADS", "1")
        if not self._base.exists():
            from tests.engine.tiny_base import build

            build(self._base)
        self.client = await Client.connect(home=self.home, name="campaign", subscribe=True)
        state = self.client.state
        if all(base.name != "tiny" for base in state.bases):
            await self.client.call(wire.AddBase(path=str(self._base), name="tiny"))
        for name, count in (("trained", 8), ("edited", 40)):
            folder = self.work / name
            if not folder.exists():
                _pictures(folder, count)
            await self.client.call(wire.ImportDataset(path=str(folder)))
        if not state.runs:  # the one that nobody disturbs
            await self.client.call(wire.StartRun(recipe=RECIPE, name="unbroken"))
        await self._until(lambda: self.client.state.runs[0].state == "finished")
        self._begin_editor()

    def _begin_editor(self) -> None:
        self.tally.edits += 1
        self._save()
        first = str(self.tally.edits * 1_000_000)
        script = ["edit", str(self.home), "edited", str(self.log), first]
        self._editor = _victim(script)

    async def _end(self) -> None:
        if self._editor is not None:
            self._editor.kill()
            self._editor.wait()
        with contextlib.suppress(LoraError):
            await self.client.call(wire.Stop(now=True))
        await self.client.close()

    # ── kills ───────────────────────────────────────────────────────────────────────────────────

    async def _kill_importing(self, victim: Victim, dice: random.Random) -> Kill:
        folder = self.work / f"import{len(self.tally.imports)}"
        shutil.rmtree(folder, ignore_errors=True)
        _many(folder, IMPORTED)
        self.tally.imports.append(str(folder))
        self._save()
        importer = _victim(["import", str(self.home), str(folder)])
        name = folder.name
        enough = dice.randrange(1, IMPORTED // 2)

        def under_way() -> bool:
            jobs = [v.job for v in self.client.live.values() if isinstance(v, wire.JobChanged)]
            job = next((j for j in reversed(jobs) if j.title == f"import of {name}"), None)
            return job is not None and (job.done >= enough or job.state != "running")

        await self._until(under_way)
        if victim == "client":
            importer.kill()
        else:
            await self._kill_daemon()
        importer.kill()
        importer.wait()
        return Kill(victim, "import", "", "import", time.time())

    async def _kill_training(self, victim: Victim, moment: Moment, dice: random.Random) -> Kill:
        run = await self._active(fresh=moment == "caching")
        phase = PHASES[moment]
        while not await self._reached(run, phase):
            run = await self._active(fresh=False)
        before = self._run(run)
        if moment in ("step", "caching"):
            with contextlib.suppress(TimeoutError):  # some way into the phase
                async with asyncio.timeout(dice.uniform(0, 0.3)):
                    await self._until(lambda: self._run(run).phase != phase)
        seen = self._run(run).phase
        match victim:
            case "client":
                assert self._editor is not None
                self._editor.kill()
                self._editor.wait()
                self._begin_editor()
            case "worker":
                pid = self._worker()
                os.kill(pid, signal.SIGKILL)
                await self._until(lambda: self._worker() != pid)
            case "daemon":
                await self._kill_daemon()
        if victim != "client":  # the bound counts restarts without a newer resume state
            await self._until(
                lambda: self._ended(run)
                or (self._run(run).rev > before.rev and self._run(run).phase == "training"
                    and self._run(run).restarts == 0)
            )  # fmt: skip
        return Kill(victim, moment, run, seen, time.time())

    async def _reached(self, run: str, phase: str) -> bool:
        """Wait for a phase; False if the run has ended before it."""
        await self._until(lambda: self._run(run).phase == phase or self._ended(run))
        return not self._ended(run)

    async def _active(self, fresh: bool) -> str:
        """A run that is under way; ``fresh``: one that has its latents still to make."""
        last = self.client.state.runs[-1]
        if fresh and not self._ended(last.id):
            await self._until(lambda: self._ended(last.id))
        if not fresh and not self._ended(last.id):
            return last.id
        shutil.rmtree(self.home / "cache" / "latents", ignore_errors=True)
        return (await self.client.call(wire.StartRun(recipe=RECIPE, name="disturbed"))).id

    async def _kill_daemon(self) -> None:
        status = msgspec.json.decode((self.home / "run" / "status.json").read_bytes())
        os.kill(status["pid"], signal.SIGKILL)
        await self._until(lambda: not self.client.connected)
        while not self.client.connected:  # clients leave one alone that dies too often
            await launch.ensure(self.home, PATIENCE)  # what is just being taken down still listens
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._until(lambda: self.client.connected)

    # ── what is true at the end ─────────────────────────────────────────────────────────────────

    async def _verify(self) -> None:
        await self._until(lambda: all(r.state in wire.FINAL_STATES for r in self._runs()))
        assert self._editor is not None
        self._editor.kill()
        self._editor.wait()
        self._editor = None
        for folder in self.tally.imports:
            done = await self.client.call(wire.ImportDataset(path=folder))
            assert done.dataset.items == IMPORTED, f"{folder}: {done.dataset.items} items"
        await self._verify_edits()
        await self._verify_runs()

    async def _verify_edits(self) -> None:
        acknowledged: dict[str, int] = {}
        for line in self.log.read_text().splitlines():
            number, item = line.split()
            acknowledged[item] = int(number)
        page = await self.client.call(wire.ListItems(dataset="edited", limit=1000))
        captions = {item.id: item.caption.text for item in page.items}
        for item, number in acknowledged.items():
            now = int(captions[item].removeprefix("edit "))
            assert now >= number, f"edit {number} was acknowledged, but {item} has edit {now}"
        with sqlite3.connect(self.home / "lora-tui.sqlite3") as database:
            (check,) = database.execute("PRAGMA integrity_check").fetchone()
            assert check == "ok", check
            rows = database.execute(
                "SELECT text FROM revisions WHERE text LIKE 'edit %'"
            ).fetchall()
        times = Counter(text for (text,) in rows)
        assert max(times.values()) == 1, f"made twice: {times.most_common(3)}"
        kept = {f"edit {line.split()[0]}" for line in self.log.read_text().splitlines()}
        assert kept <= times.keys(), f"lost: {sorted(kept - times.keys())[:3]}"
        print(f"{len(kept)} acknowledged edits, all there, each once", flush=True)

    async def _verify_runs(self) -> None:
        first, *others = self._runs()
        wanted = self._lora(first.id)
        for run in others:
            assert run.state == "finished", f"{run.id} is {run.state}: {run.message}"
            assert run.step == first.step
            assert self._lora(run.id) == wanted, f"{run.id} differs from {first.id}"
            series = await self.client.call(wire.GetSeries(run=run.id))
            assert [p.step for p in series.points] == list(range(1, first.step + 1)), run.id
        print(f"{len(others)} runs, each with the bytes of the unbroken one", flush=True)

    def _lora(self, run: str) -> tuple[bytes, dict[str, str]]:
        path = self.home / "runs" / run / "lora" / "lora.safetensors"
        header = read_header(path)
        own = ("ss_session_id", "ss_training_started_at", "ss_training_finished_at",
               "modelspec.date")  # fmt: skip
        told = {key: value for key, value in header.metadata.items() if key not in own}
        return path.read_bytes()[header.data_start :], told

    # ── looking ─────────────────────────────────────────────────────────────────────────────────

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    @client.setter
    def client(self, client: Client) -> None:
        self._client = client

    def _runs(self) -> list[wire.Run]:
        return self.client.state.runs

    def _run(self, run: str) -> wire.Run:
        return next(one for one in self._runs() if one.id == run)

    def _ended(self, run: str) -> bool:
        return self._run(run).state in wire.FINAL_STATES

    def _worker(self) -> int:
        value = self.client.live.get(("worker", ""))
        return value.worker.pid if isinstance(value, wire.WorkerChanged) else 0

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for events and live values until it is so."""
        notices = self.client.notices()
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await anext(notices)

    def _save(self) -> None:
        part = self._file.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(self.tally))
        part.replace(self._file)


def counted(kills: list[Kill]) -> dict[str, int]:
    """Kills by moment."""
    return dict(Counter(kill.moment for kill in kills))


def _victim(arguments: list[str]) -> subprocess.Popen[bytes]:
    script = [sys.executable, "-m", "tests.faults.victim", *arguments]
    return subprocess.Popen(script, cwd=Path(__file__).parents[2], start_new_session=True)


def _pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        shade = (number * 30 % 256, 200 - number, 90)
        Image.new("RGB", (64, 64 + number), shade).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(f"thing {number}")


def _many(folder: Path, count: int) -> None:
    """Many pictures that take a while to read: hard links to one large noise."""
    folder.mkdir()
    first = folder / "0000.png"
    Image.effect_noise((768, 768), 80).save(first)
    for number in range(1, count):
        (folder / f"{number:04}.png").hardlink_to(first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    campaign = Campaign(options.work.absolute(), options.seed)
    asyncio.run(campaign.run(options.kills))
    print(counted(campaign.tally.kills))


if __name__ == "__main__":
    main()
