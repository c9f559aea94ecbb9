"""Draw docs/pictures/*.svg from the app itself, on a real daemon that trains a small LoRA.

    python scripts/screenshots.py [--base FOLDER] [--check]

What no two runs share (times, speeds, memory) is replaced by fixed values between the daemon and
the app, so that the pictures change only when the app or the starter does. ``--check`` draws them
elsewhere and says which differ.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from textual.pilot import Pilot

sys.path.insert(0, str(Path(__file__).parent.parent))

from lora_tui.app import LoraApp
from lora_tui.core import words
from shared import recipe, wire
from shared.client import Client
from shared.mixes import MixLora, MixSpec
from shared.notices import StateReplaced

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
DATASETS = ROOT / "lora_daemon" / "starter" / "datasets"
SIZE = (120, 40)
NOW = 1_790_000_000.0
SPEED = 15.0  # steps a second that the pictures show: about what two cores do
GIB = 2**30


class Steady:
    """A client whose answers hold still."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.endpoint = "ipc:///run/lora.sock"

    @property
    def state(self) -> wire.State:
        return self._steady_state(self._client.state)

    @property
    def welcome(self) -> wire.Welcome | None:
        return self._client.welcome

    @property
    def connected(self) -> bool:
        return self._client.connected

    async def call(self, request: wire.Request[Any], **options: Any) -> Any:
        return self._steady(await self._client.call(request, **options))

    async def fetch(self, request: wire.Request[Any], **options: Any) -> Any:
        answer, blobs = await self._client.fetch(request, **options)
        return self._steady(answer), blobs

    async def notices(self) -> AsyncIterator[Any]:
        async for notice in self._client.notices():
            if isinstance(notice, StateReplaced):
                yield StateReplaced(self._steady_state(notice.state), notice.seq)
            elif isinstance(notice, wire.Journalled):
                event = notice.event
                if isinstance(event, wire.RunChanged):
                    event = wire.RunChanged(run=self._run(event.run))
                yield replace(notice, event=event)
            elif isinstance(notice, wire.LiveUpdate):
                yield wire.LiveUpdate(values=[_device(NOW)])
            else:
                yield notice

    async def close(self) -> None:
        """The app leaves; the script goes on with the client."""

    def _steady_state(self, state: wire.State) -> wire.State:
        return replace(
            state,
            runs=[self._run(run) for run in state.runs],
            loras=[
                replace(lora, created=NOW - 60, path=f"~/.local/share/lora-tui/{_tail(lora.path)}")
                for lora in state.loras
            ],
        )

    def _run(self, run: wire.Run) -> wire.Run:
        steps = run.step / SPEED
        return replace(
            run,
            created=NOW - 90,
            started=NOW - 60 - steps if run.started else None,
            finished=NOW - 60 if run.finished else None,
            took=steps if run.started else 0.0,
            speed=SPEED,
        )

    def _steady(self, answer: Any) -> Any:
        if isinstance(answer, wire.Status):
            others = [
                replace(c, host="desk" if c.name == "bob" else "laptop") for c in answer.clients
            ]
            return replace(answer, devices=[_device(NOW)], warnings=[], clients=others)
        if isinstance(answer, wire.MixView) and answer.seconds:
            return replace(answer, seconds=1.2)
        if isinstance(answer, wire.RunDetail):
            return replace(answer, run=self._run(answer.run))
        if isinstance(answer, wire.Series):
            points = [replace_point(point) for point in answer.points]
            return wire.Series(points=points)
        if isinstance(answer, wire.History):
            return wire.History(samples=[_device(NOW - 400 + n) for n in range(400)])
        if isinstance(answer, wire.LogLines):
            lines = [re.sub(r"\d\d:\d\d:\d\d", "14:10:26", line) for line in answer.lines]
            return wire.LogLines(lines=lines)
        return answer


def replace_point(point: wire.LivePoint) -> wire.LivePoint:
    """A point at the time it would have had at a constant speed."""
    return wire.LivePoint(
        point.step, point.loss, point.learning_rate, point.grad_norm, NOW - 400 + point.step / SPEED
    )


def _tail(path: str) -> str:
    return path[path.index("runs/") :] if "runs/" in path else Path(path).name


def _device(at: float) -> wire.DeviceUse:
    """The memory of a machine without a GPU, where the engine came a while ago."""
    engine = int((1.4 if at > NOW - 300 else 0.1) * GIB)
    return wire.DeviceUse(
        device="cpu", kind="cpu", name="CPU", total=16 * GIB, used=engine + int(2.6 * GIB),
        allocated=engine, cached=0, context=0, others=0, utilisation=97.0, power=None,
        temperature=None, at=at,
    )  # fmt: skip


async def prepare(client: Client, folder: Path, base: Path | None) -> None:
    """A dataset partly reviewed, a run that has finished, its LoRA."""
    if base is not None:
        await client.call(wire.AddBase(path=str(base), name="starter"))
    imported = await client.call(wire.ImportDataset(path=str(folder), name="creatures"))
    dataset = imported.dataset.id
    items = (await client.call(wire.ListItems(dataset=dataset, limit=40))).items
    for number, item in enumerate(items[:14]):
        state: wire.CaptionState = "accepted"
        text = None
        if number == 4:
            state = "rejected"
        elif number in (7, 8):
            state = "flagged"
        elif number in (2, 11):
            state, text = "edited", f"{item.caption.text}, soft light"
        await client.call(
            wire.ChangeCaption(
                dataset=dataset, item=item.id, if_rev=item.caption.rev, state=state, text=text
            )
        )
    text = (ROOT / "configs" / "demo.toml").read_text()
    made = recipe.parse(text, ["dataset.name=creatures", "training.max_steps=240"])
    caption = items[1].caption.text
    made = replace(made, sample=replace(made.sample, prompts=[caption], every_epochs=1))
    run = await client.call(wire.StartRun(recipe=recipe.dump(made)))
    await finished(client, run.id)


async def finished(client: Client, run: str) -> None:
    if next(r for r in client.state.runs if r.id == run).state == "finished":
        return
    async for _ in client.notices():
        now = next(r for r in client.state.runs if r.id == run)
        if now.state == "finished":
            return
        if now.state in ("failed", "stopped"):
            raise SystemExit(f"The run {now.state}: {now.message}")


async def mix(client: Client, folder: Path) -> None:
    """A style as well, and both LoRAs in the live mix."""
    await client.call(wire.ImportDataset(path=str(folder), name="pencil"))
    text = (ROOT / "configs" / "demo.toml").read_text()
    few = ["training.max_steps=80", "schedule.warmup_steps=10", "output.name=pencil"]
    made = recipe.parse(text, ["dataset.name=pencil", *few])
    made = replace(made, sample=replace(made.sample, prompts=[]))
    await finished(client, (await client.call(wire.StartRun(recipe=recipe.dump(made)))).id)
    creature, style = (run.lora for run in client.state.runs)
    spec = MixSpec(
        prompt="a blorp on grass",
        loras=[MixLora(lora=creature, weight=0.8), MixLora(lora=style, weight=0.4)],
    )
    live = next(one for one in client.state.mixes if not one.name)
    await client.call(wire.ChangeMix(before=live.spec, after=spec))


async def draw(client: Client, into: Path, folder: Path) -> None:
    async def connect() -> Any:
        return Steady(client)

    words.ago = lambda at: "2 min ago"
    from lora_tui.core import history
    from lora_tui.screens import library, review, runs

    for module in (library, review, runs):
        module.words.ago = words.ago
    history.time.time = lambda: NOW
    app = LoraApp(connect, where="box")
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot)
        await pilot.press("g", "v")
        await settled(pilot)
        await pilot.press(*["n"] * 14)
        await save(pilot, app, into / "review.svg")
        await pilot.press("g", "r")
        await save(pilot, app, into / "runs.svg")
        await pilot.press("g", "l")
        await settled(pilot)
        await pilot.press("enter")
        while app.screen._painting:  # type: ignore[attr-defined]
            await pilot.pause(0.2)
        await save(pilot, app, into / "library.svg")
        await mix(client, folder)
        await pilot.press("g", "m")
        await turn(pilot, app)
        await save(pilot, app, into / "mixer.svg")
        app.opened_run = f"group:{await sweep(client)}"
        await pilot.press("g", "r")
        await settled(pilot)
        await pilot.press("enter")
        await settled(pilot)
        await pilot.press("down")
        await save(pilot, app, into / "compare.svg")


async def sweep(client: Client) -> str:
    """Three runs that differ in rate, their checkpoints measured; the group's name."""
    text = (ROOT / "configs" / "demo.toml").read_text()
    few = [
        "training.max_steps=120", "schedule.warmup_steps=10", "evaluation.held_out=0.15",
        "save.every_steps=40", "sample.every_epochs=0",
    ]  # fmt: skip
    made = recipe.parse(text, ["dataset.name=creatures", *few])
    ask = wire.StartSweep(
        recipe=recipe.dump(made), sweep=["optimizer.learning_rate=2e-4,1e-3,4e-3"]
    )
    queued = await client.call(ask)
    for run in queued.runs:
        await finished(client, run.id)
    for run in queued.runs:
        await client.call(wire.MeasureRun(run=run.id))
    return queued.group


async def turn(pilot: Pilot[Any], app: LoraApp) -> None:
    """Try a few weights, so that the strip is not empty."""
    for key in ("right", "right", "down", "left", "left"):
        await painted(pilot, app)
        await pilot.press(key)
    await painted(pilot, app)


async def painted(pilot: Pilot[Any], app: LoraApp) -> None:
    """Wait until the Mixer has the whole picture of the mix as it is."""
    while True:
        await pilot.pause(0.2)
        mixer: Any = app.screen
        view, desk = mixer._view, mixer._desk
        if view is None or desk.spec != desk.mix.spec:
            continue
        if view.stage == "done" and view.rev == desk.mix.rev:
            return


async def settled(pilot: Pilot[Any]) -> None:
    await pilot.pause(1.5)
    await pilot.pause()


async def save(pilot: Pilot[Any], app: LoraApp, path: Path) -> None:
    await settled(pilot)
    write(app, path)


def write(app: LoraApp, path: Path) -> None:
    svg = app.export_screenshot(title="lora-tui")
    # The ids are made from a hash of the picture's own; they would differ without a difference.
    svg = re.sub(r"terminal-\d+", "terminal", svg)
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


async def run(into: Path, base: Path | None) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        os.environ |= {
            "XDG_CONFIG_HOME": f"{directory}/config", "XDG_STATE_HOME": f"{directory}/state",
            "COLORTERM": "truecolor", "TERM": "xterm-256color", "TZ": "UTC",
        }  # fmt: skip
        os.environ.pop("NO_COLOR", None)
        home = Path(directory) / "home"
        folder = Path(directory) / "creatures"
        shutil.copytree(DATASETS / "creatures", folder)
        shutil.copytree(DATASETS / "pencil", folder.with_name("pencil"))
        client = await Client.connect(home=home, name="ada", subscribe=True)
        other = await Client.connect(home=home, name="bob", subscribe=True)
        try:
            await prepare(client, folder, base)
            await draw(client, into, folder.with_name("pencil"))
        finally:
            await other.close()
            await client.call(wire.Stop())
            await client.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="a diffusers folder in place of the starter")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if not options.check:
        PICTURES.mkdir(parents=True, exist_ok=True)
        asyncio.run(run(PICTURES, options.base))
        return 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        asyncio.run(run(Path(directory), options.base))
        differ = [
            path.name
            for path in sorted(Path(directory).iterdir())
            if not (PICTURES / path.name).exists()
            or path.read_text() != (PICTURES / path.name).read_text()
        ]
    print(f"These pictures differ: {', '.join(differ)}" if differ else "All pictures are current.")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
