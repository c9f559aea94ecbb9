"""The queue: sweeps, order, what waits for what; and runs that go on from others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from lora_daemon import continuing, pipe
from shared import recipe as recipes
from shared import wire
from shared.errors import Code, LoraError
from shared.safetensors_file import Tensor, write
from tests.daemon.house import WITHIN, House, opened, with_fake_worker

RECIPE = '[base]\nname = "base"\n[dataset]\nname = "set"\n[training]\nepochs = 4\n'


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path)
    async with opened(tmp_path, pictures=5, base=True) as house:
        yield house


async def held(house: House, **fields: object) -> wire.Run:
    return await house.call(wire.StartRun(recipe=RECIPE, held=True, **fields))  # type: ignore[arg-type]


def waiting(house: House) -> list[str]:
    return [r.id for r in sorted(house.domain.state().runs, key=lambda r: r.place)]


async def test_a_sweep_is_one_named_group_and_begins_with_its_first(house: House) -> None:
    ask = wire.StartSweep(recipe=RECIPE, sweep=["network.rank=2,4"], name="dragons")
    found = await house.call(ask)
    assert found.group == "dragons"
    assert [run.settings for run in found.runs] == [["network.rank=2"], ["network.rank=4"]]
    assert [run.name for run in found.runs] == ["dragons rank=2", "dragons rank=4"]
    files = [
        json.loads((house.workspace.run(run.id) / "freeze.json").read_bytes())["name"]
        for run in found.runs
    ]
    assert files == ["dragons-rank2", "dragons-rank4"]
    ranks = [
        recipes.load(house.workspace.run(run.id) / "recipe.toml").network.rank for run in found.runs
    ]
    assert ranks == [2, 4]
    await house.until(lambda: house.run("r0001").state == "training")
    assert house.run("r0002").state == "queued"
    again = await house.call(ask)
    assert again.group == "dragons 2"  # a name is given once


@pytest.mark.parametrize(
    "sweep", [["network.rank=2,0"], ["dataset.name=set,sett"], ["base.name=base,bse"]]
)
async def test_a_sweep_with_one_bad_value_queues_nothing(house: House, sweep: list[str]) -> None:
    with pytest.raises(LoraError):
        await house.call(wire.StartSweep(recipe=RECIPE, sweep=sweep))
    assert not house.domain.state().runs
    assert not list(house.workspace.runs.glob("r*"))


async def test_waiting_runs_are_moved_and_one_that_has_begun_is_not(house: House) -> None:
    for _ in range(3):
        await held(house)
    await house.call(wire.ArrangeRun(run="r0003", move="first"))
    assert waiting(house) == ["r0003", "r0001", "r0002"]
    await house.call(wire.ArrangeRun(run="r0003", move="down"))
    assert waiting(house) == ["r0001", "r0003", "r0002"]
    await house.call(wire.ArrangeRun(run="r0001", move="up"))  # it is first already
    assert waiting(house) == ["r0001", "r0003", "r0002"]
    await house.call(wire.SteerRun(run="r0003", action="resume"))
    await house.until(lambda: house.run("r0003").state == "training")
    with pytest.raises(LoraError, match="has not begun") as caught:
        await house.call(wire.ArrangeRun(run="r0003", move="last"))
    assert caught.value.code is Code.WRONG_STATE
    await house.call(wire.SteerRun(run="r0002", action="resume"))
    await house.call(wire.SteerRun(run="r0001", action="resume"))
    await house.call(wire.SteerRun(run="r0003", action="stop"))
    await house.until(lambda: house.run("r0001").state == "training")  # before r0002
    assert house.run("r0002").state == "queued"


async def test_two_who_put_a_run_before_the_same_one_have_it_there_once(house: House) -> None:
    for _ in range(4):
        await held(house)
    ask = wire.ArrangeRun(run="r0004", before="r0003")
    await house.call(ask)
    await house.call(ask)
    assert waiting(house) == ["r0001", "r0002", "r0004", "r0003"]
    await house.call(wire.ArrangeRun(run="r0001", before="r0003"))
    assert waiting(house) == ["r0002", "r0004", "r0001", "r0003"]
    with pytest.raises(LoraError, match="before r0001, which is itself"):
        await house.call(wire.ArrangeRun(run="r0001", before="r0001"))
    await house.call(wire.SteerRun(run="r0002", action="resume"))
    await house.until(lambda: house.run("r0002").state == "training")
    with pytest.raises(LoraError, match="before r0002, which no longer waits"):
        await house.call(wire.ArrangeRun(run="r0003", before="r0002"))


async def test_a_run_waits_for_the_lora_of_another_and_says_when_none_will_come(
    house: House,
) -> None:
    await held(house, name="first")
    second = await house.call(wire.StartRun(recipe=RECIPE, after=["first"]))
    assert second.after == ["r0001"]
    assert house.run("r0002").message == "Waits for r0001."
    with pytest.raises(LoraError, match="wait for itself"):
        await house.call(wire.ArrangeRun(run="r0001", after=["r0002"]))
    await house.call(wire.StartRun(recipe=RECIPE))
    await house.until(lambda: house.run("r0003").state == "training")  # it waits for nobody
    await house.call(wire.SteerRun(run="r0001", action="stop"))  # dropped: no LoRA
    with pytest.raises(LoraError, match="waits for r0001"):
        await house.call(wire.RemoveRun(run="r0001"))
    await house.call(wire.SteerRun(run="r0003", action="stop"))
    await house.until(lambda: "stopped without a LoRA" in house.run("r0002").message)
    assert house.run("r0002").state == "queued"
    await house.call(wire.ArrangeRun(run="r0002", after=[]))
    await house.until(lambda: house.run("r0002").state == "training")
    assert house.run("r0002").message == ""


async def test_a_run_waits_for_a_whole_sweep_or_for_the_latest_of_a_name(house: House) -> None:
    for _ in range(2):
        await held(house, name="twice")
    sweep = wire.StartSweep(recipe=RECIPE, sweep=["network.rank=2,4"], name="ranks", held=True)
    await house.call(sweep)
    waits = await held(house, after=["ranks", "twice"])
    assert waits.after == ["r0003", "r0004", "r0002"]
    again = await house.call(wire.ArrangeRun(run=waits.id, after=["ranks"]))
    assert again.after == ["r0003", "r0004"]


# ── going on ────────────────────────────────────────────────────────────────────────────────────


async def finished(house: House, recipe: str = RECIPE, *, state: bool = True) -> Path:
    """r0001 as a worker leaves it that took all of its 20 steps and kept a LoRA of step 10."""
    await house.call(wire.StartRun(recipe=recipe, held=True))
    directory = house.workspace.run("r0001")
    for folder in ("lora", "state"):
        (directory / folder).mkdir()
    (directory / "pictures.json").write_text("{}")
    (directory / "metrics.csv").write_text("step,loss,learning_rate,grad_norm,time\n")
    if state:
        (directory / "state" / "step000000020.safetensors").write_bytes(b"state")
    with house.store.change("engine") as change:
        for name, step, final in (("set-step000010", 10, 0), ("set", 20, 1)):
            key = "lora_unet_down_blocks_0_attentions_0_proj_in"
            tensors = {f"{key}.lora_down.weight": Tensor("F32", (1, 2), bytes(8)),
                       f"{key}.lora_up.weight": Tensor("F32", (2, 1), bytes(8)),
                       f"{key}.alpha": Tensor("F32", (), bytes(4))}  # fmt: skip
            size = write(directory / "lora" / f"{name}.safetensors", tensors, {})
            change.execute(
                "INSERT INTO checkpoints (run, path, step, epoch, size, final)"
                " VALUES ('r0001', ?, ?, 1, ?, ?)",
                (f"lora/{name}.safetensors", step, size, final),
            )
        run = msgspec.structs.replace(
            house.run(), state="finished", phase="", step=20, started=1.0, finished=2.0, took=1.0
        )
        change.execute("UPDATE runs SET run = ?", (wire.encoder.encode(run),))
    return directory


async def test_a_finished_run_takes_more_steps_and_its_first_end_stays(house: House) -> None:
    directory = await finished(house)
    with pytest.raises(LoraError, match="run extend r0001 --steps N"):
        await house.call(wire.SteerRun(run="r0001", action="resume"))
    found = await house.call(wire.ExtendRun(run="r0001", steps=7))
    assert "as a run that was asked for 27 steps from the beginning" in found.told
    assert (found.run.steps, found.run.epochs) == (27, 6)
    training = recipes.load(directory / "recipe.toml").training
    assert (training.epochs, training.max_steps) == (6, 27)
    assert (directory / "lora" / "set-step000020.safetensors").exists()
    kept = (await house.call(wire.GetRun(run="r0001"))).checkpoints
    assert [(one.step, one.final) for one in kept] == [(10, False), (20, False), (20, True)]
    await house.until(lambda: house.run().state == "training")
    with pytest.raises(LoraError, match="r0001 is training"):
        await house.call(wire.ExtendRun(run="r0001", steps=5))
    await house.call(wire.SteerRun(run="r0001", action="stop"))
    await house.until(lambda: house.run().state == "stopped")
    assert 1.0 < house.run().took < 1.0 + WITHIN  # what lay between is not counted


async def test_a_falling_schedule_is_said_to_be_another_one_when_it_is_longer(
    house: House,
) -> None:
    await finished(house, RECIPE + '[schedule]\nkind = "cosine"\n')
    told = (await house.call(wire.ExtendRun(run="r0001", steps=20))).told
    assert "cosine schedule is worked out anew over 40 steps" in told
    assert "from 6.16e-07 to 5e-05 at once" in told


async def test_without_its_state_a_run_is_not_extended(house: House) -> None:
    await finished(house, state=False)
    with pytest.raises(LoraError, match="run fork r0001") as caught:
        await house.call(wire.ExtendRun(run="r0001", steps=7))
    assert caught.value.code is Code.WRONG_STATE
    assert house.run().state == "finished"


async def test_a_fork_goes_on_with_everything_where_the_settings_allow_it(house: House) -> None:
    parent = await finished(house)
    settings = ["optimizer.learning_rate=5e-5", "training.epochs=8"]
    found = await house.call(wire.ForkRun(run="r0001", settings=settings))
    assert "nothing begins anew" in found.told and "from 0.0001 to 5e-05" in found.told
    run, directory = found.run, house.workspace.run("r0002")
    assert (run.parent, run.step, run.steps) == ("r0001", 20, 40)
    assert run.settings == ["optimizer.learning_rate=5e-05", "training.epochs=8"]
    state = "state/step000000020.safetensors"
    assert (directory / state).read_bytes() == (parent / state).read_bytes()
    assert (directory / "metrics.csv").exists() and (directory / "pictures.json").exists()
    theirs, ours = (
        msgspec.json.decode((d / "freeze.json").read_bytes(), type=pipe.Freeze)
        for d in (parent, directory)
    )
    assert ours.pictures == theirs.pictures and ours.run == "r0002" and ours.name != theirs.name
    with pytest.raises(LoraError, match="end at step 20 and begins at 20"):
        await house.call(wire.ForkRun(run="r0001", settings=settings[:1]))


async def test_a_fork_begins_from_the_lora_where_the_state_does_not_fit(house: House) -> None:
    parent = await finished(house)
    found = await house.call(wire.ForkRun(run="r0001", settings=["network.rank=16"]))
    assert "as network.rank does not go with its state" in found.told
    assert "begin anew" in found.told
    recipe = recipes.load(house.workspace.run("r0002") / "recipe.toml")
    assert recipe.network.start == str(parent / "lora" / "set.safetensors")
    assert not (house.workspace.run("r0002") / "state").exists()
    (parent / "state" / "step000000025.safetensors").write_bytes(b"of a run that goes on")
    again = await house.call(wire.ForkRun(run="r0001", settings=["network.rank=16"]))
    assert "Begins from the LoRA of step 20" in again.told  # of step 25 there is none
    (parent / "state" / "step000000025.safetensors").unlink()
    early = await house.call(wire.ForkRun(run="r0001", step=10))
    assert "Begins from the LoRA of step 10" in early.told
    with pytest.raises(LoraError, match="There is 10, 20") as caught:
        await house.call(wire.ForkRun(run="r0001", step=11))
    assert caught.value.data["steps"] == [10, 20]
    with pytest.raises(LoraError, match=r"Did you mean network\.rank"):
        await house.call(wire.ForkRun(run="r0001", settings=["network.rnak=8"]))
    with pytest.raises(LoraError, match=r"network\.start: There is no LoRA 'styl'"):
        await house.call(wire.ForkRun(run="r0001", step=0, settings=["network.start=styl"]))


@pytest.mark.parametrize(
    ("setting", "field"),
    [("dataset.enable_bucket=true", "bucket"), ("dataset.color_jitter=0.1", "versions")],
)
async def test_a_fork_freezes_its_pictures_anew_where_they_are_trained_at_others(
    setting: str, field: str, house: House
) -> None:
    await finished(house)
    found = await house.call(wire.ForkRun(run="r0001", settings=[setting]))
    assert "Pictures and captions are frozen as they are now" in found.told
    made = json.loads((house.workspace.run("r0002") / "freeze.json").read_bytes())
    assert made[field] == [8] * 5 if field == "versions" else made["pictures"][0][field]


async def test_what_goes_on_from_a_run_whose_base_is_gone_is_refused_at_once(house: House) -> None:
    await finished(house)
    await house.call(wire.RemoveBase(base="base"))
    for ask in (
        wire.ForkRun(run="r0001", settings=["training.epochs=8"]),
        wire.ExtendRun(run="r0001", steps=7),
    ):
        with pytest.raises(LoraError, match="base base cannot be used") as caught:
            await house.call(ask)
        assert caught.value.code is Code.NOT_FOUND
    assert [run.state for run in house.domain.state().runs] == ["finished"]


def test_longer_recipes_are_whole_epochs_where_that_fits() -> None:
    recipe = recipes.parse(RECIPE)
    longer = continuing.lasting(recipe, 25, 5).training
    assert (longer.epochs, longer.max_steps) == (5, 0)
    longer = continuing.lasting(recipe, 26, 5).training
    assert (longer.epochs, longer.max_steps) == (6, 26)


def test_a_longer_run_in_buckets_counts_the_batches_of_each() -> None:
    recipe = recipes.parse(f"{RECIPE}batch_size = 4\n")
    longer = continuing.lasting(recipe, 6, 4, [1, 3]).training
    assert (longer.epochs, longer.max_steps) == (3, 0)
    assert continuing.lasting(recipe, 6, 4).training.epochs == 6
