"""Runs: what they freeze, the queue, steering, and what is left of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from lora_daemon import freezing
from lora_daemon.runs import read_series
from shared import launch, wire
from shared import recipe as recipes
from shared.client import Client
from shared.errors import Code, LoraError
from shared.pictures import LoraUse, PictureSpec
from shared.safetensors_file import Tensor, write
from tests.daemon.house import House, opened, with_fake_worker
from tests.daemon.process import DaemonProcess, pictures
from tests.daemon.waiting import until

RECIPE = '[base]\nname = "base"\n[dataset]\nname = "set"\n'


# ── queueing, with a worker that only says it trains ────────────────────────────────────────────


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path)
    async with opened(tmp_path, pictures=5, base=True) as house:
        yield house


async def caption(house: House, number: int, **fields: Any) -> None:
    page = await house.call(wire.ListItems(dataset="set"))
    item = page.items[number]
    await house.call(
        wire.ChangeCaption(dataset="set", item=item.id, if_rev=item.caption.rev, **fields)
    )


async def refused(house: House, recipe: str) -> LoraError:
    with pytest.raises(LoraError) as caught:
        await house.call(wire.StartRun(recipe=recipe))
    assert not house.domain.state().runs
    assert not list(house.workspace.runs.glob("r*"))  # and nothing is left on the disk
    return caught.value


async def test_embeddings_that_samples_name_are_known_to_the_run(house: House) -> None:
    folder = house.workspace.embeddings
    write(folder / "bad-hands.safetensors", {"emb_params": Tensor("F32", (2, 8), bytes(64))}, {})
    (folder / "old.pt").write_bytes(b"PK\x03\x04 a pickle")
    sample = '[sample]\nprompts = ["a thing"]\nnegative = "Bad-Hands"\n'
    run = await house.call(wire.StartRun(recipe=RECIPE + sample))
    freeze = json.loads((house.workspace.run(run.id) / "freeze.json").read_text())
    assert freeze["embeddings"] == [["bad-hands", str(folder / "bad-hands.safetensors")]]
    with pytest.raises(LoraError, match="pickle"):
        await house.call(wire.StartRun(recipe=RECIPE + sample.replace("a thing", "an old house")))


async def test_a_run_freezes_what_can_be_trained_on_and_says_what_not(
    house: House, tmp_path: Path
) -> None:
    (tmp_path / "set" / "004.png").write_bytes(b"")
    await house.call(wire.ImportDataset(path=str(tmp_path / "set")))
    await caption(house, 0, state="rejected")
    await caption(house, 1, text="")
    await caption(house, 2, text="by hand", state="accepted")
    run = await house.call(wire.StartRun(recipe=RECIPE, name="first"))
    assert (run.id, run.name, run.pictures, run.skipped) == ("r0001", "first", 3, 2)
    assert (run.steps, run.epochs) == (30, 10)
    directory = house.workspace.run("r0001")
    freeze = json.loads((directory / "freeze.json").read_text())
    assert [one["caption"] for one in freeze["pictures"]] == ["", "by hand", "picture 3"]
    resolved = recipes.load(directory / "recipe.toml")
    assert resolved.dataset.resolution == 64  # the base's own, written down
    await caption(house, 3, text="too late")
    assert json.loads((directory / "freeze.json").read_text()) == freeze
    detail = await house.call(wire.GetRun(run="r0001"))
    skipped = {Path(path).name: reason for path, reason in detail.skipped}
    assert skipped == {"000.png": "rejected in review", "004.png": "is empty (0 bytes)"}
    assert any("no caption" in warning for warning in detail.warnings)


async def test_a_run_freezes_pictures_of_the_class_masks_and_wildcards(
    house: House, tmp_path: Path
) -> None:
    await house.call(wire.ImportDataset(path=str(pictures(tmp_path / "class", 2))))
    masks = pictures(tmp_path / "masks", 2)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "colour.txt").write_text("red\nblue\n")
    await caption(house, 1, text="a __colour__ thing")
    more = (
        f'regularisation = "class"\nmask_folder = "{masks}"\nwildcards = true\n'
        f'wildcard_folder = "{tmp_path / "words"}"\ncolor_jitter = 0.1\nversions = 2\n'
    )
    run = await house.call(wire.StartRun(recipe=RECIPE + more))
    assert (run.pictures, run.steps) == (5, 100)  # as many of the class beside them
    freeze = json.loads((house.workspace.run(run.id) / "freeze.json").read_bytes())
    assert [Path(one["path"]).parent.name for one in freeze["regularisation"]] == ["class"] * 2
    assert [Path(one["mask"]).name for one in freeze["pictures"]] == [
        "000.png",
        "001.png",
        *[""] * 3,
    ]
    assert freeze["wildcards"] == {"colour": ["red", "blue"]}
    assert freeze["versions"] == [2] * 7  # those of the class too
    warnings = (await house.call(wire.GetRun(run=run.id))).warnings
    assert any("3 of 5 pictures have no mask" in warning for warning in warnings)
    with pytest.raises(LoraError, match="Did you mean class"):
        await house.call(wire.StartRun(recipe=RECIPE + 'regularisation = "clas"\n'))
    with pytest.raises(LoraError, match=r"other\.txt cannot be read"):
        await caption(house, 1, text="a __other__ thing")
        await house.call(wire.StartRun(recipe=RECIPE + more))
    assert len(house.domain.state().runs) == 1


async def test_a_lora_to_begin_from_is_found_and_looked_over_before_the_run_is_queued(
    house: House, tmp_path: Path
) -> None:
    def begun(start: object) -> str:
        return RECIPE + f'[network]\nstart = "{start}"\n'

    ways = ("up", "down")
    pair = {f"lora_unet_a.lora_{way}.weight": Tensor("F32", (1, 1), bytes(4)) for way in ways}
    (tmp_path / "peft").mkdir()
    whole = tmp_path / "peft" / "adapter_model.safetensors"
    write(whole, pair, {})
    for name, made, said in (
        ("none", b"", "There is no LoRA file"),
        ("torn", whole.read_bytes()[:-1], "cut short"),
        ("pickle", b"\x80\x02}", "pickle"),
    ):
        if made:
            (tmp_path / name).write_bytes(made)
        assert said in (await refused(house, begun(tmp_path / name))).message
    assert "network.start" in (await refused(house, begun("r0031"))).message
    run = await house.call(wire.StartRun(recipe=begun(whole.parent)))
    kept = recipes.load(house.workspace.run(run.id) / "recipe.toml")
    assert kept.network.start == str(whole)
    follower = wire.StartRun(recipe=begun(tmp_path / "none"), after=[run.id])
    assert (await house.call(follower)).state == "queued"  # what it waits for may write it


async def test_a_lora_of_a_name_that_nobody_has_is_refused_also_for_a_run_that_waits(
    house: House,
) -> None:
    first = await house.call(wire.StartRun(recipe=RECIPE))
    named = wire.StartRun(recipe=RECIPE + '[network]\nstart = "style"\n', after=[first.id])
    with pytest.raises(LoraError, match=r"network\.start: There is no LoRA"):
        await house.call(named)  # only a path can be of a file that is yet to come


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ('[network]\nranks = ["OUT99=4"]\n', "network.ranks"),
        ('[network]\nranks = ["*=0"]\n', "network.ranks"),
        ('[optimizer]\nrates = ["OUT*=0.5", "*attn3*=0.1"]\n', "optimizer.rates"),
        ('[optimizer]\nrates = ["TEXT=0.5"]\n', "optimizer.rates"),  # no text encoder is trained
    ],
)
async def test_a_pattern_that_fits_no_module_of_the_base_is_refused_when_the_run_is_queued(
    house: House, wrong: str, key: str
) -> None:
    recipe = RECIPE.replace('"base"', '"starter"')
    error = await refused(house, recipe + wrong)
    with pytest.raises(LoraError) as checked:
        await house.call(wire.CheckRecipes(recipes=[recipe, recipe + wrong]))
    assert checked.value.message == error.message
    assert error.code is Code.INVALID_RECIPE and error.data["key"] == key
    assert error.message.startswith(f"{key}: ")
    if "=0" not in wrong:
        assert "like IN01 and unet.down_blocks.0.attentions.0." in error.message


async def test_patterns_that_fit_are_taken_whatever_the_text_encoders_path_is(
    house: House,
) -> None:
    recipe = RECIPE.replace('"base"', '"starter"')
    fitting = (
        '[network]\nranks = ["OUT*=4/2", "text_encoder.text_model.encoder.layers.0.*=2"]\n'
        '[optimizer]\ntext_encoder_rate = 1e-5\nrates = ["text_encoder.encoder.layers.1.*=0.5"]\n'
    )
    await house.call(wire.CheckRecipes(recipes=[recipe + fitting]))
    assert not house.domain.state().runs  # it was looked at alone
    assert (await house.call(wire.StartRun(recipe=recipe + fitting))).id == "r0001"


async def test_masks_that_lie_in_the_datasets_folder_are_no_pictures_of_it(
    house: House, tmp_path: Path
) -> None:
    pictures(tmp_path / "cats", 3)
    pictures(tmp_path / "cats" / "masks", 3)
    await house.call(wire.ImportDataset(path=str(tmp_path / "cats")))
    recipe = RECIPE.replace('name = "set"', 'name = "cats"\nmask_folder = "masks"')
    run = await house.call(wire.StartRun(recipe=recipe))
    assert run.pictures == 3
    freeze = json.loads((house.workspace.run(run.id) / "freeze.json").read_bytes())
    assert all("/cats/masks/" in one["mask"] for one in freeze["pictures"])


async def test_without_any_caption_it_is_said_what_comes_of_it(
    house: House, tmp_path: Path
) -> None:
    for text in pictures(tmp_path / "cats", 3).glob("*.txt"):
        text.write_text("")
    await house.call(wire.ImportDataset(path=str(tmp_path / "cats")))
    recipe = RECIPE.replace('name = "set"', 'name = "cats"')
    run = await house.call(wire.StartRun(recipe=recipe))
    [warning] = (await house.call(wire.GetRun(run=run.id))).warnings
    assert warning.startswith("No picture has a caption") and "caption cats" in warning
    assert warning in "\n".join(house.domain.run_log(run.id, 9))


async def test_a_recipe_for_another_family_is_refused(house: House) -> None:
    error = await refused(house, RECIPE.replace("[dataset]", 'family = "sdxl"\n[dataset]'))
    assert error.code == Code.INVALID_RECIPE and error.data["key"] == "base.family"
    assert "for Stable Diffusion XL" in error.message
    assert "base is a Stable Diffusion 1.x" in error.message
    ends = await refused(house, RECIPE + "[noise]\nzero_terminal_snr = true\n")
    assert "base predicts the noise" in ends.message
    run = await house.call(wire.StartRun(recipe=RECIPE.replace("[dat", 'family = "sd1"\n[dat')))
    freeze = json.loads((house.workspace.run(run.id) / "freeze.json").read_bytes())
    assert freeze["base_predicts"] == "epsilon"


async def test_what_cannot_be_trained_is_refused_with_a_way_out(house: House) -> None:
    error = await refused(house, "[netwrok]\nrank = 4\n")
    assert error.code == Code.INVALID_RECIPE
    assert "network" in error.message
    error = await refused(house, '[base]\nname = "base"\n[dataset]\nname = "sett"\n')
    assert error.code == Code.NOT_FOUND
    assert "Did you mean set?" in error.message
    error = await refused(house, '[base]\nname = "bse"\n[dataset]\nname = "set"\n')
    assert "Did you mean base?" in error.message
    error = await refused(house, '[base]\nname = "base"\n')
    assert "dataset.name" in error.message
    for number in range(5):
        await caption(house, number, state="rejected")
    error = await refused(house, RECIPE)
    assert error.code == Code.INVALID_FILE
    assert "5 are rejected" in error.message


async def test_a_disk_without_space_is_told_before_a_run_is_queued(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "SPACE_NEEDED", 1 << 60)
    error = await refused(house, RECIPE)
    assert error.code == Code.STORAGE
    assert "Free some space" in error.message


async def test_one_run_at_a_time_in_the_order_of_the_queue(house: House) -> None:
    for _ in range(3):
        await house.call(wire.StartRun(recipe=RECIPE))
    await house.until(lambda: house.run("r0001").state == "training")
    assert [house.run(f"r000{n}").state for n in (2, 3)] == ["queued", "queued"]
    await steer(house, "r0002", "stop")  # dropped
    assert house.run("r0002").state == "stopped"
    await steer(house, "r0001", "stop")
    await house.until(lambda: house.run("r0003").state == "training")
    assert house.run("r0001").state == "stopped"


async def test_a_queued_run_can_be_held_back(house: House) -> None:
    for _ in range(3):
        await house.call(wire.StartRun(recipe=RECIPE))
    await steer(house, "r0002", "pause")
    assert house.run("r0002").state == "paused"
    await steer(house, "r0001", "stop")
    await house.until(lambda: house.run("r0003").state == "training")
    await steer(house, "r0002", "resume")
    assert house.run("r0002").state == "queued"


async def test_what_a_run_cannot_do_now_is_a_sentence(house: House) -> None:
    await house.call(wire.StartRun(recipe=RECIPE))
    await house.call(wire.StartRun(recipe=RECIPE))
    await steer(house, "r0002", "stop")
    for run, action in (("r0002", "pause"), ("r0002", "stop"), ("r0002", "sample"),
                        ("r0002", "resume")):  # fmt: skip
        with pytest.raises(LoraError) as caught:
            await steer(house, run, action)
        assert caught.value.code == Code.WRONG_STATE
        assert "r0002 is stopped" in caught.value.message
    assert "run fork r0002" in caught.value.message  # as it took no step
    log = (house.workspace.run("r0002") / "log.txt").read_text()
    asked = [line for line in log.splitlines() if "asked by" in line]
    assert len(asked) == 1 and "stop asked by" in asked[0]  # not what was refused
    with pytest.raises(LoraError) as caught:
        await house.call(wire.RemoveRun(run="r0001"))
    assert caught.value.code == Code.WRONG_STATE


async def test_a_run_without_sample_prompts_says_that_it_makes_no_samples(house: House) -> None:
    await house.call(wire.StartRun(recipe=RECIPE))
    await house.until(lambda: house.run("r0001").state == "training")
    with pytest.raises(LoraError, match=r"r0001 has no sample\.prompts"):
        await steer(house, "r0001", "sample")
    prompted = RECIPE + '\n[sample]\nprompts = ["a thing"]\n'
    await house.call(wire.StartRun(recipe=prompted))
    await steer(house, "r0001", "stop")
    await house.until(lambda: house.run("r0002").state == "training")
    await steer(house, "r0002", "sample")


async def test_a_number_is_never_given_twice(house: House) -> None:
    await house.call(wire.StartRun(recipe=RECIPE))
    await house.call(wire.StartRun(recipe=RECIPE))
    await steer(house, "r0002", "stop")
    await house.call(wire.RemoveRun(run="r0002"))
    assert not house.workspace.run("r0002").exists()
    run = await house.call(wire.StartRun(recipe=RECIPE))
    assert run.id == "r0003"


async def steer(house: House, run: str, action: Any) -> wire.Run:
    return await house.call(wire.SteerRun(run=run, action=action))


def test_a_torn_last_line_of_the_series_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,loss,learning_rate,grad_norm,time\n1,0.5,1e-4,1,10\n2,0.25,1e-4,1,11\n3,0.1"
    )
    points = read_series(path, 0, 100)
    assert [(point.step, point.loss) for point in points] == [(1, 0.5), (2, 0.25)]
    assert [point.step for point in read_series(path, 1, 100)] == [2]
    assert read_series(tmp_path / "none.csv", 0, 100) == []


# ── real training by a real worker ──────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.engine.tiny_base import build

    return build(tmp_path_factory.mktemp("bases") / "tiny")


def training(steps: int, more: str = "") -> str:
    return (
        f'[base]\nname = "tiny"\n[dataset]\nname = "set"\n[network]\nrank = 2\nalpha = 2.0\n'
        f"[training]\nmax_steps = {steps}\nepochs = 100000\n{more}"
    )


@pytest.fixture
async def trainer(
    home: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, daemon: DaemonProcess
) -> AsyncIterator[Client]:
    """A client of a daemon that has a small dataset and a tiny base."""
    monkeypatch.setenv("LORA_TUI_THREADS", "1")
    async with await Client.connect(home=daemon.home, subscribe=True) as client:
        await client.call(wire.ImportDataset(path=str(pictures(tmp_path / "set", 3))))
        await client.call(wire.AddBase(path=str(tiny)))
        yield client


async def reached(client: Client, run: str, condition: Callable[[wire.Run], bool]) -> wire.Run:
    """Follow the events until the run is so."""
    notices = client.notices()
    async with asyncio.timeout(120):
        while True:
            now = next((one for one in client.state.runs if one.id == run), None)
            if now is not None and condition(now):
                return now
            assert now is None or now.state != "failed", now.message
            await anext(notices)


async def test_a_run_is_steered_and_ends_in_the_library(trainer: Client, home: Path) -> None:
    sample = '[sample]\nprompts = ["a thing"]\nsteps = 1\nevery_epochs = 0\nat_first = false\n'
    run = await trainer.call(wire.StartRun(recipe=training(4000, sample), name="things"))
    await reached(trainer, run.id, lambda now: now.phase == "training")
    paused = await trainer.call(wire.SteerRun(run=run.id, action="pause"))
    assert paused.state == "paused"
    await trainer.call(wire.SteerRun(run=run.id, action="sample"))
    await trainer.call(wire.SteerRun(run=run.id, action="save"))
    kept = await reached(trainer, run.id, lambda now: bool(now.lora))
    assert kept.state == "paused"
    assert trainer.state.pictures[0].run == run.id
    await trainer.call(wire.SteerRun(run=run.id, action="resume"))
    await reached(trainer, run.id, lambda now: now.state == "training")
    await trainer.call(wire.SteerRun(run=run.id, action="stop"))
    ended = await reached(trainer, run.id, lambda now: now.state == "stopped")
    assert ended.lora == "things"
    assert 0 < ended.step < 4000
    assert ended.loss is not None
    spent, started, finished = ended.spent, ended.started, ended.finished
    assert spent is not None and started is not None and finished is not None
    assert (spent.batches, spent.batch, spent.painted) == (ended.step, 1, 2)
    assert spent.cached and min(spent.loading, spent.painting) > 0
    assert spent.memory == 0 or spent.memory > 100 * 2**20  # it may end before it is seen
    assert 0 < spent.training + spent.loading + spent.caching < finished - started

    detail = await trainer.call(wire.GetRun(run=run.id))
    assert [one.final for one in detail.checkpoints] == [False, True]
    assert len(detail.samples) == 1
    series = await trainer.call(wire.GetSeries(run=run.id, points=50))
    assert series.points[-1].step == ended.step
    log = await trainer.call(wire.GetLog(run=run.id))
    assert any("pause asked by tester" in line for line in log.lines)

    spec = PictureSpec(
        base="tiny", prompt="a thing", steps=1, loras=[LoraUse(lora="things", weight=0.5)]
    )
    picture = await trainer.call(wire.Generate(spec=spec))
    assert "<lora:things:0.5>" in picture.parameters
    _, blobs = await trainer.fetch(wire.GetPicture(picture=picture.id))
    assert blobs[0].startswith(b"\x89PNG")
    await trainer.call(wire.RemoveRun(run=run.id))
    assert not (home / "runs" / run.id).exists()
    await until(trainer, lambda _: not trainer.state.runs)
    assert not trainer.state.loras
    assert [one.run for one in trainer.state.pictures] == [""]


async def test_a_run_outlives_its_daemon_and_a_paused_one_waits(
    trainer: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    save = "[save]\nresume_seconds = 0.2\n"
    run = await trainer.call(wire.StartRun(recipe=training(100_000, save)))
    await reached(trainer, run.id, lambda now: now.step > 0)
    await daemon.kill()  # the trainer's client starts another
    before = trainer.state.runs[0].rev
    await reached(trainer, run.id, lambda now: now.rev > before and now.phase == "training")
    log = await trainer.call(wire.GetLog(run=run.id))
    assert any("resumed at step" in line for line in log.lines)
    assert (await trainer.call(wire.SteerRun(run=run.id, action="pause"))).state == "paused"
    pid = daemon.pid
    await trainer.call(wire.Stop())
    assert await launch.wait_gone(pid, 60)
    async with await Client.connect(home=daemon.home, name="later", subscribe=True) as later:
        assert later.state.runs[0].state == "paused"
        stopped = await later.call(wire.SteerRun(run=run.id, action="stop"))
        assert stopped.state in ("queued", "starting")  # its LoRA has yet to be saved
        ended = await reached(later, run.id, lambda now: now.state == "stopped")
        assert ended.lora
