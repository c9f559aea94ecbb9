"""The live mix on a real engine: what a turn of a weight reads, what it paints, what it says."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from safetensors.torch import save_file

from lora_daemon import mix_pictures, pipe
from lora_daemon.engine import bases, lora_file, previews
from lora_daemon.engine.bases import Base
from lora_daemon.engine.studio import Studio
from shared import wire
from shared.distilled import Preview
from shared.errors import LoraError
from shared.mixes import MixLora
from shared.pictures import SecondPass
from tests.daemon.house import House


class InHouse:
    """A studio in a thread of the test, in the place of the worker process; it counts loads."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: list[str] = []
        self.painted: list[pipe.Paint] = []
        self.steps: dict[str, int] = {}  # denoising steps done of each picture
        self.before_step: Callable[[], None] = lambda: None
        self._cancelled: set[str] = set()
        self._domain = house.domain
        self._loop = asyncio.get_running_loop()
        self._orders: asyncio.Queue[pipe.Paint] = asyncio.Queue()
        self._studio = Studio(torch.device("cpu"), self._tell, self._is_cancelled)
        for module in (bases, lora_file):
            self._count(module, monkeypatch)
        monkeypatch.setattr(house.domain._seats.first.supervisor, "send", self._send)
        monkeypatch.setattr(house.domain._seats.first.supervisor, "tell", self._take)
        self.task = asyncio.create_task(self._work())

    def _count(self, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        load = module.load

        def counted(path: Path, *more: Any, **options: Any) -> Any:
            self.loaded.append(path.name)
            return load(path, *more, **options)

        monkeypatch.setattr(module, "load", counted)

    async def _send(self, command: pipe.Command) -> int:
        assert isinstance(command, pipe.Paint)
        self._orders.put_nowait(command)
        return 1

    def _take(self, command: pipe.Command) -> None:
        assert isinstance(command, pipe.Cancel)
        self._cancelled.add(command.job)

    def _is_cancelled(self, job: str) -> bool:
        self.steps[job] = self.steps.get(job, -1) + 1  # asked once before, then at each step
        if self.steps[job]:
            self.before_step()
        return job in self._cancelled

    def _tell(self, report: pipe.Report) -> None:
        self._loop.call_soon_threadsafe(self._domain._orders.report, report)

    async def _work(self) -> None:
        while True:
            paint = await self._orders.get()
            self.painted.append(paint)
            await asyncio.to_thread(
                self._studio.serve, paint, lambda paint=paint: self._studio.base(paint.base_path)
            )


@pytest.fixture
async def house(
    tmp_path: Path, base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    monkeypatch.setattr(mix_pictures, "PREVIEW_STEPS", 2)
    house = House(tmp_path / "home")
    await house.domain.start()
    shutil.copytree(base_path, tmp_path / "tiny")
    await house.call(wire.AddBase(path=str(tmp_path / "tiny"), name="tiny"))
    await change(house, base="tiny", steps=4, prompt="a thing")
    yield house
    await house.close()


@pytest.fixture
async def engine(house: House, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InHouse]:
    engine = InHouse(house, monkeypatch)
    yield engine
    engine.task.cancel()


def lora(base: Base, path: Path, seed: int = 0, strange: int = 0, few: int = 1000) -> MixLora:
    """A LoRA with weights at random on every module, or on a few; ``strange``: as many modules of
    no base."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in [*base.unet_names.items(), *base.text_names.items()][:few]:
        network = base.unet if name in base.unet_names else base.text_encoder
        high, *wide = network.get_submodule(name).weight.shape
        down = torch.randn(2, *wide, generator=draw) * 0.3
        tensors[f"{module}.lora_down.weight"] = down
        tensors[f"{module}.lora_up.weight"] = torch.randn(
            high, 2, *(1 for _ in wide[1:]), generator=draw
        )
    for number in range(strange):
        for role in ("down", "up"):
            key = f"lora_unet_somewhere_else_{number}.lora_{role}.weight"
            tensors[key] = torch.ones(2, 2)
    save_file(tensors, path)
    return MixLora(lora=str(path), weight=0.5)


async def change(house: House, **changes: Any) -> wire.Mix:
    spec = house.domain.state().mixes[0].spec
    return await house.call(wire.ChangeMix(before=spec, after=replace(spec, **changes)))


async def painted(house: House, rev: int, stage: str = "done") -> tuple[wire.MixView, bytes]:
    """The view once the mix of ``rev`` is at ``stage``, and the picture's pixels."""
    view = await house.call(wire.WatchMix())
    async with asyncio.timeout(60):
        while (view.rev, view.stage) != (rev, stage):
            view = await house.call(wire.WatchMix(seen=view.token))
    path = house.workspace.cache / "mix" / f"{view.picture}.png"
    return view, Image.open(path).tobytes() if view.picture else b""


async def test_a_turn_of_a_weight_reads_no_file(
    house: House, engine: InHouse, base: Base, tmp_path: Path
) -> None:
    rows = [lora(base, tmp_path / f"{n}.safetensors", n) for n in range(2)]
    _, first = await painted(house, (await change(house, loras=rows)).rev)
    assert engine.loaded == ["tiny", "0.safetensors", "1.safetensors"]
    pictures = {first}
    for turned in (
        {"loras": [replace(rows[0], weight=-0.2), rows[1]]},
        {"loras": [replace(rows[0], text_weight=0.0), rows[1]]},
        {"loras": [replace(rows[0], muted=True), rows[1]]},
        {"loras": [replace(rows[0], solo=True), rows[1]]},
        {"loras": rows, "prompt": "another thing"},
        {"prompt": "a thing", "seed": 7},
    ):
        _, picture = await painted(house, (await change(house, **turned)).rev)
        pictures.add(picture)
    assert len(pictures) == 7  # each change is seen
    assert len(engine.painted) == 14  # each with its preview
    _, again = await painted(house, (await change(house, seed=1025)).rev)
    assert again == first
    assert engine.loaded == ["tiny", "0.safetensors", "1.safetensors"]


async def test_a_mix_that_was_muted_is_the_picture_without_it(
    house: House, engine: InHouse, base: Base, tmp_path: Path
) -> None:
    rows = [lora(base, tmp_path / f"{n}.safetensors", n) for n in range(2)]
    view, alone = await painted(house, (await change(house, loras=rows[:1])).rev)
    muted = [rows[0], replace(rows[1], muted=True)]
    again, _ = await painted(house, (await change(house, loras=muted)).rev)
    assert again.picture == view.picture  # known by all that decides its pixels
    path = house.workspace.cache / "mix" / f"{view.picture}.png"
    with Image.open(path) as picture:
        assert "<lora:0:0.5>" in picture.info["parameters"]
        assert "1:" not in picture.info["parameters"].partition("Lora hashes")[2]
    assert alone


async def test_a_newer_change_stops_the_older_picture_within_a_step(
    house: House, engine: InHouse
) -> None:
    await change(house, steps=200)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    changes: list[Any] = []

    def turn_once() -> None:
        job = engine.painted[-1].job
        if engine.painted[-1].spec.steps == 200 and engine.steps[job] == 3 and not changes:
            turned = change(house, seed=2, steps=1)
            changes.append(asyncio.run_coroutine_threadsafe(turned, loop).result())
            loop.call_soon_threadsafe(done.set)

    engine.before_step = turn_once
    await house.call(wire.WatchMix())
    async with asyncio.timeout(60):
        await done.wait()
    await painted(house, changes[0].rev)
    given_up = next(one for one in engine.painted if one.spec.steps == 200)
    assert engine.steps[given_up.job] <= 4


async def test_what_a_base_has_no_place_for_is_named(
    house: House, engine: InHouse, base: Base, tmp_path: Path
) -> None:
    count = len(base.unet_names) + len(base.text_names)
    row = lora(base, tmp_path / "half.safetensors", strange=count)
    view, _ = await painted(house, (await change(house, loras=[row])).rev)
    doubt = (
        f"half: this base has no place for {count} of its {2 * count} modules (is it for another"
    )
    [note] = view.notes
    assert note.startswith(doubt) and "leaves out lora_unet_somewhere" in note
    tried = await house.call(wire.GetTried(tried=view.picture, side=16))
    assert (tried.width, tried.height, tried.media_type) == (16, 16, "image/jpeg")
    await painted(house, (await change(house, loras=[])).rev)
    again, _ = await painted(house, (await change(house, loras=[row])).rev)
    assert again.notes == view.notes  # also when it is shown again


async def test_a_base_deleted_under_the_mix_is_said(
    house: House, engine: InHouse, tmp_path: Path
) -> None:
    await painted(house, house.domain.state().mixes[0].rev)
    shutil.rmtree(tmp_path / "tiny")
    view, _ = await painted(house, (await change(house, seed=3)).rev, "failed")
    assert view.failure is not None and "tiny" in view.failure.message


async def test_thirty_two_loras_at_once(
    house: House, engine: InHouse, base: Base, tmp_path: Path
) -> None:
    files = [lora(base, tmp_path / f"{n}.safetensors", n, few=4) for n in range(32)]
    rows = [replace(one, weight=0.05) for one in files]
    _, all_of_them = await painted(house, (await change(house, loras=rows, steps=1)).rev)
    loads = len(engine.loaded)
    turned = [*rows[:31], replace(rows[31], weight=-1.0)]
    _, other = await painted(house, (await change(house, loras=turned)).rev)
    assert other != all_of_them and len(engine.loaded) == loads


async def test_a_distilled_lora_paints_previews_and_nothing_else(
    house: House, engine: InHouse, base: Base, tmp_path: Path
) -> None:
    """A LoRA at random stands for a distilled one: real ones are made for real bases."""
    row = lora(base, tmp_path / "0.safetensors")
    _, plain = await painted(house, (await change(house, loras=[row], cfg=3.0)).rev)
    quick = lora(base, tmp_path / "lcm.safetensors", 7).lora
    preview = Preview(lora=quick, steps=1)
    before = len(engine.painted)
    made = await change(house, preview=preview, seed=7)
    _, full = await painted(house, made.rev)
    first, second = engine.painted[before:]
    spec = first.spec
    assert (spec.sampler, spec.steps, spec.cfg, spec.seed) == ("LCM", 1, 1.0, 7)
    assert first.distilled is not None and first.distilled.path == quick
    assert (first.guided, second.guided) == (0.5, 1.0)
    assert (second.distilled, second.spec.sampler, second.spec.cfg) == (None, "Euler", 3.0)
    _, again = await painted(house, (await change(house, seed=1025)).rev)
    assert again == plain != full  # known: the preview's LoRA decides none of its pixels
    loads = len(engine.loaded)
    turned = replace(row, weight=0.1)
    _, turned_full = await painted(house, (await change(house, loras=[turned])).rev)
    assert len(engine.loaded) == loads  # both stay stacked
    for one in (house.workspace.cache / "mix").iterdir():
        one.unlink()
    _, anew = await painted(house, (await change(house, preview=None)).rev)
    assert anew == turned_full  # painted again, where no such LoRA is on the base


async def test_pictures_are_shown_on_their_way_and_the_whole_one_is_the_vaes(
    house: House, engine: InHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "EVERY", 0.0)
    monkeypatch.setattr(previews, "SHARE", 1e9)
    folder = house.workspace.cache / "mix"
    house.workspace.vae_approx.mkdir()
    (house.workspace.vae_approx / "torn.safetensors").write_bytes(b"\x10")
    mix = await change(house, decoder="cheap", steps=8)
    sizes, stages = dict[str, tuple[int, int]](), list[str]()
    view = await house.call(wire.WatchMix())
    async with asyncio.timeout(60):
        while (view.rev, view.stage) != (mix.rev, "done"):
            if view.picture and not view.sharp:
                with (
                    contextlib.suppress(FileNotFoundError),
                    Image.open(  # the next is there
                        folder / f"{view.picture}.png"
                    ) as picture,
                ):
                    sizes[view.picture] = picture.size
                stages.append(view.stage)
            view = await house.call(wire.WatchMix(seen=view.token))
    assert {"preview", "full"} <= set(stages)
    assert any("-" in name for name in sizes) and len(set(sizes.values())) == 1
    first, second = engine.painted
    assert first.previews and second.previews
    assert (first.previews.itself, second.previews.itself) == (True, False)
    assert (first.previews.after, second.previews.after) == (0.0, 0.5)
    assert sum("torn.safetensors" in note for note in view.notes) == 1  # said once, also then
    path = folder / f"{view.picture}.png"
    cheap = Image.open(path).tobytes()
    assert [one.name for one in folder.iterdir()] == [path.name]  # what was on the way is gone
    path.unlink()
    _, whole = await painted(house, (await change(house, decoder="full")).rev)
    assert whole == cheap and all(one.previews is None for one in engine.painted[2:])
    with Image.open(next(folder.iterdir())) as picture:
        assert max(picture.size) > max(*sizes.values())[0]


async def test_a_second_pass_is_of_the_whole_picture_alone(house: House, engine: InHouse) -> None:
    with pytest.raises(LoraError, match="no upscaler 4x-Ultra"):
        await change(house, second=SecondPass(upscaler="4x-Ultra"))
    mix = await change(house, second=SecondPass(scale=2, strength=0.5, upscaler="Lanczos"))
    view, _ = await painted(house, mix.rev)
    first, second = engine.painted
    assert first.spec.second is None and second.spec.second == mix.spec.second
    assert view.steps == 4 + 2
    (tried,) = house.domain.state().tried
    assert (tried.width, tried.height) == second.spec.final_size


async def test_a_distilled_lora_that_cannot_be_used_costs_the_preview_alone(
    house: House, engine: InHouse, base: Base, tmp_path: Path
) -> None:
    path = tmp_path / "lcm.safetensors"
    preview = Preview(lora=lora(base, path).lora, steps=1)
    mix = await change(house, preview=preview)
    path.write_bytes(b"\x10")
    view, picture = await painted(house, (await change(house, seed=3)).rev)
    assert mix.spec.preview == preview and picture
    assert any("no preview with" in note for note in view.notes)
    path.unlink()
    view, _ = await painted(house, (await change(house, seed=4)).rev)
    assert any("Previews are without" in note for note in view.notes)
