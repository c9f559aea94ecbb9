"""Which checkpoint, asked of the daemon: measured once, gone on with, chosen from without names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from lora_daemon import pipe, recommending
from shared import foretelling, wire
from shared import recipe as recipes
from shared.errors import Code, LoraError
from shared.foretelling import Spent
from shared.safetensors_file import Tensor, write
from shared.which import Which
from tests.daemon.house import House, hollow_base, opened, with_fake_worker


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path)
    monkeypatch.setattr(recommending, "RESAMPLES", 80)
    async with opened(tmp_path) as house:
        trained(house, hollow_base(tmp_path / "base"))
        yield house


def picture(number: int, word: str) -> pipe.FrozenPicture:
    return pipe.FrozenPicture(
        item="i" * (number + 1), path=f"/{word}{number}.png", content=f"{word}{number}",
        caption=f"a {word} blorp {number}",
    )  # fmt: skip


def trained(house: House, base: Path, held: int = 5, steps: tuple[int, ...] = (10, 20, 30)) -> None:
    """A finished run r0001 that has kept checkpoints."""
    directory = house.workspace.run("r0001")
    (directory / "lora").mkdir(parents=True, exist_ok=True)
    tree = {"dataset": {"resolution": 64}, "output": {"trigger": "blorp"}}
    (directory / "recipe.toml").write_text(recipes.dump(recipes.convert(tree)))
    freeze = pipe.Freeze(
        run="r0001", name="blorps", base="b", base_path=str(base), dataset="d",
        pictures=[picture(n, "seen") for n in range(6)], skipped=[], queued_at=0.0,
        held_out=[picture(n, "kept") for n in range(held)],
    )  # fmt: skip
    (directory / "freeze.json").write_bytes(msgspec.json.encode(freeze))
    run = wire.Run(
        id="r0001", name="blorps", dataset="d", base="b", state="finished", phase="", done=0,
        total=0, step=30, steps=30, epoch=1, epochs=1, loss=None, speed=None, pictures=6, skipped=0,
        restarts=0, message="", lora="", by="t", created=0.0, started=None, finished=None, size=0,
        rev=1,
    )  # fmt: skip
    with house.store.change("t") as change:
        change.execute(
            "INSERT INTO runs VALUES ('r0001', 1, ?)", (wire.encoder.encode(run),)
        )  # fmt: skip
    for step in steps:
        kept(house, step)


def kept(house: House, step: int, *, final: bool = False) -> Path:
    path = f"lora/blorps-step{step:06}.safetensors" if not final else f"lora/{step:06}.safetensors"
    file = house.workspace.run("r0001") / path
    file.write_bytes(b"a LoRA")
    with house.store.change("t") as change:
        change.execute(
            "INSERT INTO checkpoints VALUES ('r0001', ?, ?, 1, 9, ?)", (path, step, final)
        )
    return file


def asked(tmp_path: Path) -> list[str]:
    log = tmp_path / "log"
    return log.read_text().splitlines() if log.exists() else []


async def measured(house: House) -> Which:
    return (await house.call(wire.MeasureRun(run="r0001"))).found


async def test_a_run_is_measured_and_the_answer_has_its_reason(
    house: House, tmp_path: Path
) -> None:
    before = (await house.call(wire.GetWhich(run="blorps"))).found
    assert (before.recommended, before.take) == ("", None)
    kept(house, 30, final=True)  # the same step once more, as the end of a run keeps it
    found = await measured(house)
    names = [one.name for one in found.candidates]
    assert names == ["step 10", "step 20", "step 30", "average of steps 10, 20, 30"]
    best = found.take
    assert best is not None and best.name == "step 20"
    assert best.held is not None and best.held.mean == pytest.approx(-0.05 / 0.203)
    assert best.train is not None and best.train.mean == pytest.approx(-0.02 / 0.2)
    assert (best.drift, best.leak) == (pytest.approx(0.02), pytest.approx(0.5))
    assert best.nearness == pytest.approx(1.0)
    assert best.files[0].endswith("lora/blorps-step000020.safetensors")
    assert len(found.candidates[-1].files) == 3
    assert "5 pictures kept back" in found.reason
    assert any("over-fitting" in note for note in found.notes)
    assert house.domain._jobs.all()[-1].state == "done"
    told = [one.event for one in house.heard if isinstance(one, wire.Journalled)]
    assert told[-1] == wire.CheckpointJudged(run="r0001")
    orders = asked(tmp_path)
    assert "loss base 4" in orders and "loss base 1" in orders  # in portions
    assert "drift base 0" not in orders  # it cannot drift from itself


async def test_how_long_measuring_takes_is_told_before_and_less_when_some_is_measured(
    house: House,
) -> None:
    async def told() -> float | None:
        return (await house.call(wire.GetWhich(run="r0001"))).found.seconds

    assert await told() is None  # nothing tells
    recipe = recipes.load(house.workspace.run("r0001") / "recipe.toml")
    spent = Spent(
        like=foretelling.kind(recipe), device="cpu", dataset="d", loading=1.0, caching=1.0,
        cached=6, training=40.0, batches=100, batch=1, painting=20.0, painted=100, memory=1,
    )  # fmt: skip
    run = msgspec.structs.replace(house.run(), spent=spent)
    with house.store.change("t") as change:
        change.execute("UPDATE runs SET run = ?", (wire.encoder.encode(run),))
    unrelated = len(recipe.evaluation.unrelated)
    losses, apart, imagined = 16 * (5 + 6), 16 * (5 + unrelated), 24 * (5 + unrelated)
    sample = recipe.sample
    pictures = 6 * 2 * sample.steps
    # The base, three checkpoints and the average that one of them will be in.
    predicted, painted = 5 * losses + 4 * apart, 5 * pictures + imagined
    assert await told() == pytest.approx(0.1 * predicted + 0.2 * painted)
    await measured(house)
    assert await told() == 0
    kept(house, 40)
    assert await told() == pytest.approx(0.1 * (losses + apart) + 0.2 * pictures)


async def test_a_loras_card_tells_the_leak_that_was_measured(house: House) -> None:
    file = house.workspace.run("r0001") / "lora/blorps-step000020.safetensors"
    key = "lora_unet_mid_block_attentions_0_proj_in"
    up, down = Tensor("F16", (3, 1), b"\1" * 6), Tensor("F16", (1, 2), b"\1" * 4)
    write(file, {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}, {})
    lora = wire.Lora(
        name="blorps", path=str(file), size=9, rank=1, base="b", trigger="blorp", run="r0001",
        step=20, sha256="", created=0.0,
    )  # fmt: skip
    with house.store.change("t") as change:
        row = (lora.name, lora.run, wire.encoder.encode(lora))
        change.execute("INSERT INTO loras (name, run, lora) VALUES (?, ?, ?)", row)
    assert (await house.call(wire.GetLoraCard(lora="blorps"))).found.leak is None
    await measured(house)
    card = (await house.call(wire.GetLoraCard(lora="blorps"))).found
    assert card.leak == pytest.approx(0.5) and (card.run, card.base) == ("r0001", "b")


async def test_nothing_is_measured_twice_and_a_new_checkpoint_alone(
    house: House, tmp_path: Path
) -> None:
    found = await measured(house)
    (tmp_path / "log").write_text("")
    assert await measured(house) == found
    assert asked(tmp_path) == []
    kept(house, 40)
    again = await measured(house)
    assert [one.name for one in again.candidates][:4] == [f"step {n}" for n in (10, 20, 30, 40)]
    assert {line.split()[1] for line in asked(tmp_path) if "loss" in line} == {"blorps-step000040"}
    changed = house.workspace.run("r0001") / "lora" / "blorps-step000010.safetensors"
    changed.write_bytes(b"another LoRA")
    (tmp_path / "log").write_text("")
    await measured(house)
    assert any("loss blorps-step000010 " in line for line in asked(tmp_path))
    assert not any("loss blorps-step000020 " in line for line in asked(tmp_path))


async def test_given_up_it_keeps_what_is_measured_and_goes_on_there(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "deaf")
    call = asyncio.create_task(house.call(wire.MeasureRun(run="r0001")))
    jobs = house.domain._jobs
    base = house.workspace.run("r0001") / "which" / "step-0.json"
    async with asyncio.timeout(60):
        while not base.exists() or b".png" not in base.read_bytes():
            await house.call(wire.GetWhich(run="r0001"))
    assert house.domain.workers()[0].state == "measuring"
    with pytest.raises(LoraError) as busy:
        await measured(house)
    assert busy.value.code == Code.BUSY
    call.cancel()
    await asyncio.wait([call])
    assert jobs.all()[-1].state == "cancelled"
    assert not (await house.call(wire.GetWhich(run="r0001"))).found.busy
    (tmp_path / "mark").touch()
    (tmp_path / "log").write_text("")
    assert (await measured(house)).recommended == "step 20"
    assert not any(" base " in line for line in asked(tmp_path))


async def test_a_worker_that_dies_of_it_is_tried_again_and_then_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "die once")
    assert (await measured(house)).recommended == "step 20"
    kept(house, 40)
    await house.domain._seats.first.supervisor.end(now=True)
    monkeypatch.setenv("FAKE_WORKER", "die")
    with pytest.raises(LoraError) as caught:
        await measured(house)
    assert caught.value.code == Code.WORKER_FAILED
    known = (await house.call(wire.GetWhich(run="r0001"))).found
    assert known.recommended == "step 20"
    assert [one.measured for one in known.candidates] == [True, True, True, False, True]


async def test_pictures_are_chosen_without_names_and_go_before_the_measure(house: House) -> None:
    with pytest.raises(LoraError) as early:
        await house.call(wire.GetPair(run="r0001"))
    assert early.value.code == Code.WRONG_STATE
    await measured(house)
    sides = set()
    for number in range(3):  # 20 stands alone: it is compared with 10 and 30
        pair, names = await looked_at(house)
        assert (pair.chosen, pair.wanted) == (number, 3)
        assert "step" not in pair.pair and pair.prompt.startswith("a ")
        better = "left" if names[0] > names[1] else "right"  # the later one
        sides.add(better)
        told = (
            await house.call(wire.ChoosePicture(run="r0001", pair=pair.pair, better=better))
        ).found
    assert (told.chosen, told.recommended, told.pairs) == ("step 30", "step 20", 3)
    assert told.take is not None and told.take.name == "step 30"
    assert "tester took step 30 in 2 of 2 pairs" in told.reason and "step 20" in told.reason
    with pytest.raises(LoraError) as stale:
        await house.call(wire.ChoosePicture(run="r0001", pair=pair.pair, better="left"))
    assert stale.value.code == Code.CONFLICT
    undone = (await house.call(wire.UndoChoice(run="r0001"))).found
    assert (undone.chosen, undone.pairs) == ("", 2)
    assert (await looked_at(house))[0].pair == pair.pair
    for _ in range(2):
        await house.call(wire.UndoChoice(run="r0001"))
    with pytest.raises(LoraError) as none:
        await house.call(wire.UndoChoice(run="r0001"))
    assert none.value.code == Code.NOT_FOUND
    for _ in range(3):
        pair, _ = await looked_at(house)
        ask = wire.ChoosePicture(run="r0001", pair=pair.pair, better="neither")
        told = (await house.call(ask)).found
    assert told.chosen == "step 20"  # of equals, as the measure says: step 10 is the earliest


async def looked_at(house: House) -> tuple[wire.Pair, list[str]]:
    """The next pair, and what a person does not see: the names of its sides."""
    from lora_daemon.service import Context

    context = Context(by="t", key="", progress=lambda *_: None)
    pair = await house.handlers[wire.GetPair](context, wire.GetPair(run="r0001"))
    names = [blob.rpartition(b"/")[2].decode() for blob in context.blobs]
    assert len(set(names)) == 2
    return pair, names


async def test_without_a_checkpoint_it_says_how_to_have_one(house: House, tmp_path: Path) -> None:
    with house.store.change("t") as change:
        change.execute("DELETE FROM checkpoints")
    with pytest.raises(LoraError, match=r"save\.every_epochs") as caught:
        await measured(house)
    assert caught.value.code == Code.WRONG_STATE


async def test_those_that_have_painted_can_be_compared_while_others_wait(house: House) -> None:
    await measured(house)
    kept(house, 15)
    path = house.workspace.run("r0001") / "which" / "step-20.json"
    path.unlink()  # the best of them has to be measured anew
    assert len({(await looked_at(house))[1][0] for _ in range(3)}) == 1
    names = set((await looked_at(house))[1])
    assert all("step-10" in name or "step-30" in name for name in names)
