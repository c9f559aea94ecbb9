"""From a key in the Mixer to the picture on its screen, with a daemon and a worker of their own.

    python -m bench.live_mix [--rounds 9] [--base FOLDER]

Two LoRAs of rank 16 on every module of the starter. Each round presses → once, to a weight not
tried before, and waits until the preview, then the full picture of 20 steps is worked out in
half-blocks at 120 × 40. One JSON object: medians and the worst, in seconds, from the key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from textual.pilot import Pilot

from lora_daemon.engine import bases
from lora_daemon.starter import base_dir
from lora_tui.app import LoraApp
from lora_tui.screens.mixer import Mixer
from lora_tui.widgets.picture import PictureView
from shared import wire
from shared.client import Client
from shared.mixes import MixLora, MixSpec

LOOK = 0.002  # seconds between two looks at the screen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--base", type=Path, default=base_dir())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in ("CONFIG", "STATE"):
            os.environ[f"XDG_{name}_HOME"] = f"{folder}/{name.lower()}"
        loras = _loras(options.base, Path(folder))
        found = asyncio.run(measure(options.base, Path(folder) / "home", loras, options.rounds))
    print(json.dumps(found))


async def measure(base: Path, home: Path, loras: list[Path], rounds: int) -> dict[str, Any]:
    async with await Client.connect(home=home, name="bench", subscribe=True) as client:
        try:
            return await _measure(client, base, home, loras, rounds)
        finally:
            await client.call(wire.Stop(now=True))


async def _measure(
    client: Client, base: Path, home: Path, loras: list[Path], rounds: int
) -> dict[str, Any]:
    await client.call(wire.AddBase(path=str(base), name="measured"))
    rows = [MixLora(lora=str(path), weight=-0.4) for path in loras]
    spec = MixSpec(base="measured", prompt="a drawing of a red house", loras=rows)
    await client.call(wire.ChangeMix(before=client.state.mixes[0].spec, after=spec))

    async def connect() -> Client:
        return await Client.connect(home=home, name="bench", subscribe=True)

    app = LoraApp(connect)
    times: dict[str, list[float]] = {"preview": [], "full": []}
    async with app.run_test(size=(120, 40)) as pilot:
        await _until(lambda: app.connection is not None)
        await pilot.press("g", "m")
        mixer = app.screen
        assert isinstance(mixer, Mixer)
        await _until(lambda: _whole(mixer))  # the engine and the base are there
        for _ in range(rounds):
            preview, full = await _round(pilot, mixer)
            times["preview"].append(preview)
            times["full"].append(full)
    medians = {name: round(statistics.median(one), 3) for name, one in times.items()}
    worst = {f"{name}_worst": round(max(one), 3) for name, one in times.items()}
    threads = os.environ.get("LORA_TUI_THREADS", "all")
    return {"threads": threads, "load": round(os.getloadavg()[0], 1), **medians, **worst}


async def _round(pilot: Pilot[Any], mixer: Mixer) -> tuple[float, float]:
    view = mixer.query_one("#picture", PictureView)
    before, began = view.shown_key, time.perf_counter()
    await pilot.press("right")
    await _until(lambda: view.shown_key not in ("", before))
    preview = time.perf_counter() - began
    await _until(lambda: view.shown_key != before and _whole(mixer))
    return preview, time.perf_counter() - began


def _whole(mixer: Mixer) -> bool:
    """Whether the full picture of the present mix is on the screen."""
    view, shown = mixer._view, mixer.query_one("#picture", PictureView).shown_key
    return view is not None and view.stage == "done" and view.picture == shown


async def _until(true: Any) -> None:
    while not true():  # noqa: ASYNC110  # a screen has no event for this
        await asyncio.sleep(LOOK)


def _loras(folder: Path, into: Path) -> list[Path]:
    base = bases.load(folder, torch.device("cpu"))
    paths = []
    for seed in range(2):
        draw = torch.Generator().manual_seed(seed)
        tensors = {}
        for path, name in base.unet_names.items():
            high, *wide = base.unet.get_submodule(path).weight.shape
            tensors[f"{name}.lora_down.weight"] = torch.randn(16, *wide, generator=draw) * 0.02
            tensors[f"{name}.lora_up.weight"] = 0.02 * torch.randn(
                high, 16, *(1 for _ in wide[1:]), generator=draw
            )
        paths.append(into / f"{seed}.safetensors")
        save_file(tensors, paths[-1])
    return paths


if __name__ == "__main__":
    main()
