"""The worker as the daemon sees it: commands in, reports out, and files in the run directory."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image

from lora_daemon import pipe
from lora_daemon.engine.resume import State, States
from shared.errors import Code
from shared.pictures import LoraUse, PictureSpec
from shared.safetensors_file import read_header
from tests.engine import worker_process as work

LONG = {"training": {"epochs": 10_000}}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> list[pipe.FrozenPicture]:
    return work.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def order(tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]) -> pipe.Train:
    return work.prepare(tmp_path / "run", base_path, frozen, training={"epochs": 3})


def test_a_run_tells_its_phases_its_steps_and_its_end(order: pipe.Train) -> None:
    done = work.train(order, fresh=True)

    ready = done.of(pipe.Ready)[0]
    assert (ready.device, ready.precision, ready.threads) == ("cpu", "fp32", 1)
    phases = [report.phase for report in done.of(pipe.Phase)]
    assert list(dict.fromkeys(phases)) == ["loading", "caching", "training", "saving"]
    points = [point for tick in done.of(pipe.Tick) for point in tick.points]
    assert [point.step for point in points] == list(range(1, 13))
    assert all(point.loss > 0 and point.grad_norm > 0 for point in points)
    finished = done.of(pipe.Finished)[0]
    assert (finished.outcome, finished.step) == ("finished", 12)
    assert finished.lora == "lora/things.safetensors"
    rows = (Path(order.run_dir) / "metrics.csv").read_text().splitlines()
    assert rows[0] == "step,loss,learning_rate,grad_norm,time"
    assert [row.split(",")[0] for row in rows[1:]] == [str(step) for step in range(1, 13)]


def test_the_worker_ends_in_the_middle_of_a_step_when_the_daemon_is_gone(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    with work.worker() as one:
        one.send(work.prepare(tmp_path / "run", base_path, frozen, **LONG))
        one.until(pipe.Tick)
        one.socket.close()
        work.wait_for(lambda: one.ended, 5)


def test_signals_meant_for_the_daemon_do_not_end_the_worker(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    with work.worker() as one:
        one.send(work.prepare(tmp_path / "run", base_path, frozen, **LONG))
        one.until(pipe.Tick)
        one.signal(signal.SIGTERM)
        one.signal(signal.SIGINT)
        one.until(pipe.Tick)
        one.steer("suspend")
        assert one.until(pipe.Finished).outcome == "suspended"


def test_pause_holds_the_run_and_still_paints(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    order = work.prepare(tmp_path / "run", base_path, frozen, training={"epochs": 50})
    with work.worker() as one:
        one.send(order)
        one.until(pipe.Tick)
        one.steer("pause")
        one.until(pipe.Phase, lambda told: told.phase == "paused")
        held = one.of(pipe.Tick)[-1].step
        one.send(_paint(base_path, tmp_path / "meanwhile.png"))
        one.until(pipe.Painted)
        one.steer("save")
        assert one.until(pipe.CheckpointSaved).step == held
        one.steer("resume")
        assert one.until(pipe.Tick).points[0].step == held + 1
        one.until(pipe.Finished)
    assert work.content(order) == work.content(_unbroken(tmp_path, base_path, frozen, 50))


def test_stop_saves_the_lora_and_finishes(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    order = work.prepare(tmp_path / "run", base_path, frozen, **LONG)
    with work.worker() as one:
        one.send(order)
        one.until(pipe.Tick)
        one.steer("stop")
        finished = one.until(pipe.Finished)
    assert finished.outcome == "stopped"
    header = read_header(Path(order.run_dir) / finished.lora)
    assert header.metadata["ss_steps"] == str(finished.step)


def test_stop_before_a_resumed_run_has_begun_saves_what_it_had_learnt(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    order = work.prepare(tmp_path / "run", base_path, frozen, **LONG)
    with work.worker() as one:
        one.send(order)
        one.until(pipe.Tick)
        one.steer("suspend")
        step = one.until(pipe.Finished).step
        one.send(order)
        one.steer("stop")
        finished = one.until(pipe.Finished)
        assert (finished.outcome, finished.step) == ("stopped", step)
        assert (Path(order.run_dir) / finished.lora).exists()


def test_stop_before_the_first_step_leaves_no_lora(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    with work.worker() as one:
        one.send(work.prepare(tmp_path / "run", base_path, frozen, **LONG))
        one.steer("stop")
        finished = one.until(pipe.Finished)
        assert (finished.outcome, finished.step, finished.lora) == ("stopped", 0, "")


def test_suspend_and_train_again_end_with_the_bytes_of_an_unbroken_run(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    order = work.prepare(tmp_path / "run", base_path, frozen, training={"epochs": 30})
    with work.worker() as one:
        one.send(order)
        one.until(pipe.Tick)
        one.steer("suspend")
        suspended = one.until(pipe.Finished)
        assert suspended.outcome == "suspended" and 0 < suspended.step < 120
        one.send(order)
        resumed = one.until(pipe.Resumed)
        assert (resumed.step, resumed.identical) == (suspended.step, True)
        one.until(pipe.Finished)
    assert work.content(order) == work.content(_unbroken(tmp_path, base_path, frozen, 30))


def test_resuming_with_other_threads_says_that_it_is_not_identical(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    order = work.prepare(tmp_path / "run", base_path, frozen, **LONG)
    with work.worker(threads=1) as one:
        one.send(order)
        one.until(pipe.Tick)
        one.steer("suspend")
        one.until(pipe.Finished)
    with work.worker(threads=2) as one:
        one.send(order)
        resumed = one.until(pipe.Resumed)
    assert not resumed.identical
    assert "threads: 1 → 2" in resumed.why


def test_a_run_of_a_gpu_that_has_fallen_away_is_not_taken_up_on_the_cpu_unasked(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    order = work.prepare(tmp_path / "run", base_path, frozen, training={"epochs": 2})
    work.train(order)
    states = States(Path(order.run_dir) / "state")
    state, _ = states.newest()
    assert state is not None
    card = replace(state.progress.fingerprint, device="cuda NVIDIA H100")
    states.publish(State(replace(state.progress, fingerprint=card), state.tensors))
    files = work.content(order)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with work.worker() as one:
        one.send(order)
        failure = one.until(pipe.RunFailed).failure
    assert failure.code is Code.WRONG_STATE and "NVIDIA H100" in failure.message
    assert "step 8" in failure.message and work.content(order) == files

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with work.worker(fresh=True) as one:
        one.send(order)
        resumed = one.until(pipe.Resumed)
    assert resumed.step == 8 and "cuda NVIDIA H100 → cpu" in resumed.why


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_makes_no_promise_of_identity(
    precision: str, tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    order = work.prepare(
        tmp_path / "run", base_path, frozen, training={"epochs": 3, "precision": precision}
    )
    done = work.train(order)
    points = [point for tick in done.of(pipe.Tick) for point in tick.points]
    assert all(0.5 < point.loss < 2 and 0 < point.grad_norm < 1 for point in points)
    with work.worker() as one:
        one.send(order)
        resumed = one.until(pipe.Resumed)
    assert not resumed.identical and "does not repeat" in resumed.why


def test_ten_sample_nows_and_pictures_between_leave_the_bytes_unchanged(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    sample = {"prompts": ["a thing"], "steps": 2, "every_epochs": 0, "at_first": False}
    quiet = work.prepare(
        tmp_path / "quiet", base_path, frozen, training={"epochs": 20}, sample=sample
    )
    work.train(quiet)
    busy = work.prepare(
        tmp_path / "busy", base_path, frozen, training={"epochs": 20}, sample=sample
    )
    lora = Path(quiet.run_dir) / "lora" / "things.safetensors"
    with work.worker() as one:
        one.send(busy)
        one.until(pipe.Phase, lambda told: told.phase == "training")
        for number in range(10):
            one.steer("sample")
            one.until(pipe.SampleSaved)
            if number == 5:
                painted = _paint(base_path, tmp_path / "between.png", lora=lora)
                one.send(painted)
                one.until(pipe.Painted)
                row = [LoraUse(lora="things", weight=0.7)]
                look = pipe.Recognise(
                    job="look", spec=painted.spec, base_path=str(base_path), loras=painted.loras,
                    painted=row, rows=[row, [LoraUse(lora="things", weight=0.0)]],
                )  # fmt: skip
                one.send(look)
                assert len(set(one.until(pipe.Recognised).errors)) == 2
        one.until(pipe.Finished)
    assert len(one.of(pipe.SampleSaved)) == 10
    assert work.content(busy) == work.content(quiet)


def test_a_run_directory_is_trained_by_one_process_at_a_time(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    order = work.prepare(tmp_path / "run", base_path, frozen, **LONG)
    with work.worker() as one, work.worker() as other:
        one.send(order)
        one.until(pipe.Tick)
        other.send(order)
        refused = other.until(pipe.RunFailed)
    assert refused.failure.code is Code.BUSY


def test_a_loss_that_is_not_finite_stops_the_run_at_the_last_good_state(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    order = work.prepare(
        tmp_path / "run", base_path, frozen, training={"epochs": 10_000},
        optimizer={"learning_rate": 1.0, "max_grad_norm": 0.0, "weight_decay": 0.0},
        network={"rank": 4, "alpha": 4096.0}, save={"resume_seconds": 0.001},
    )  # fmt: skip
    with work.worker() as one:
        one.send(order)
        failed = one.until(pipe.RunFailed)
    assert failed.failure.code is Code.DIVERGED
    kept = Path(order.run_dir) / failed.failure.data["kept"]
    assert kept.exists() and str(failed.failure.data["kept_step"]) in failed.failure.message
    assert "Likely cause: optimizer.learning_rate = 1 is 500 times" in failed.failure.message
    assert failed.failure.data["settings"] == ["optimizer.learning_rate=0.002", "network.alpha=4.0"]
    assert "`lora-tui run fork r1 --at" in failed.failure.message
    states = sorted((Path(order.run_dir) / "state").glob("step*"))
    assert states and f"{failed.failure.data['kept_step']:09d}" in states[-1].name


def test_a_failed_sample_is_told_and_the_training_goes_on(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    run_dir = tmp_path / "run"
    order = work.prepare(
        run_dir, base_path, frozen, training={"epochs": 2},
        sample={"prompts": ["a thing"], "steps": 2, "every_epochs": 1},
    )  # fmt: skip
    (run_dir / "samples").write_text("a file where the folder should be")
    done = work.train(order)
    for notice, step in zip(done.of(pipe.Notice), (0, 4, 8), strict=True):
        assert f"A sample of step {step} failed" in notice.message
    assert done.of(pipe.Finished)[0].outcome == "finished"


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others(
    tmp_path: Path, base_path: Path
) -> None:
    pixels = []
    with work.worker() as one:
        for name, seed in (("a", 7), ("b", 7), ("c", 8)):
            one.send(_paint(base_path, tmp_path / f"{name}.png", seed=seed))
            painted = one.until(pipe.Painted)
            with Image.open(tmp_path / f"{name}.png") as picture:
                assert picture.text["parameters"] == painted.parameters  # type: ignore[attr-defined]
                pixels.append(picture.tobytes())
    assert pixels[0] == pixels[1] != pixels[2]
    assert (painted.width, painted.height) == (64, 64)
    assert "Steps: 3, Sampler: Euler, CFG scale: 7, Seed: 8, Size: 64x64" in painted.parameters


def test_a_picture_can_be_cancelled_within_a_step(tmp_path: Path, base_path: Path) -> None:
    with work.worker() as one:
        one.send(_paint(base_path, tmp_path / "never.png", steps=1000))
        one.until(pipe.PaintStep)
        one.send(pipe.Cancel(job="job"))
        failed = one.until(pipe.PaintFailed)
    assert failed.failure.code is Code.CANCELLED
    assert not (tmp_path / "never.png").exists()


def test_one_job_paints_many_pictures(tmp_path: Path, base_path: Path) -> None:
    more = [
        pipe.Canvas(
            spec=PictureSpec(prompt=f"thing {n}", steps=3, seed=n), out=f"{tmp_path}/{n}.png"
        )
        for n in range(11)
    ]
    with work.worker() as one:
        one.send(_paint(base_path, tmp_path / "first.png", more=more))
        one.until(pipe.Painted)
        last = one.of(pipe.PaintStep)[-1]
        assert last.step == last.steps == 12 * 3
        one.send(_paint(base_path, tmp_path / "alone.png"))
        one.until(pipe.Painted)
    digests = {hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.glob("*.png")}
    assert len(list(tmp_path.glob("*.png"))) == 13
    assert len(digests) == 12  # the first of many is the same as when alone


@pytest.mark.parametrize("what", ["changed", "vanished", "truncated", "empty", "text"])
def test_a_picture_that_cannot_be_used_is_skipped_by_name(
    what: str, tmp_path: Path, base_path: Path
) -> None:
    frozen = work.pictures(tmp_path / "pictures")
    bad = Path(frozen[1].path)
    match what:
        case "changed":
            Image.new("RGB", (90, 90)).save(bad)
        case "vanished":
            bad.unlink()
        case "truncated":
            bad.write_bytes(bad.read_bytes()[:-40])
        case "empty":
            bad.write_bytes(b"")
        case "text":
            bad.write_text("not a picture")
    if what not in ("changed", "vanished"):
        frozen[1] = work.freeze_picture(bad, "a caption")
    order = work.prepare(tmp_path / "run", base_path, frozen, training={"epochs": 2})
    done = work.train(order)
    (skipped,) = done.of(pipe.Skipped)
    assert skipped.path == str(bad) and skipped.reason
    assert done.of(pipe.Finished)[0].step == 2 * 3


def test_skips_are_fixed_with_the_first_step(tmp_path: Path, base_path: Path) -> None:
    frozen = work.pictures(tmp_path / "pictures")
    gone, there = Path(frozen[1].path), (tmp_path / "pictures" / "1.png").read_bytes()
    gone.unlink()
    order = work.prepare(tmp_path / "run", base_path, frozen, training={"epochs": 30})
    with work.worker() as one:
        one.send(order)
        one.until(pipe.Tick)
        one.steer("suspend")
        one.until(pipe.Finished)
        gone.write_bytes(there)  # back again, too late for this run
        one.send(order)
        one.until(pipe.Resumed)
        assert one.until(pipe.Finished, lambda told: told.outcome == "finished").step == 90


def test_a_picture_edited_after_caching_is_trained_as_it_was(
    tmp_path: Path, base_path: Path
) -> None:
    frozen = work.pictures(tmp_path / "pictures")
    first = work.prepare(tmp_path / "first", base_path, frozen, training={"epochs": 2})
    work.train(first)
    Image.new("RGB", (90, 90)).save(frozen[0].path)
    again = work.prepare(tmp_path / "again", base_path, frozen, training={"epochs": 2})
    assert not work.train(again).of(pipe.Skipped)
    assert work.content(again) == work.content(first)


def test_no_usable_picture_fails_the_run_with_its_reason(tmp_path: Path, base_path: Path) -> None:
    frozen = work.pictures(tmp_path / "pictures", count=1)
    Path(frozen[0].path).unlink()
    with work.worker() as one:
        one.send(work.prepare(tmp_path / "run", base_path, frozen))
        failed = one.until(pipe.RunFailed)
        assert failed.failure.code is Code.INVALID_FILE
        assert frozen[0].path in failed.failure.message
        assert not one.ended


def test_a_damaged_cache_entry_is_made_again(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    first = work.prepare(tmp_path / "first", base_path, frozen, training={"epochs": 2})
    work.train(first)
    entries = sorted(Path(first.cache_dir).rglob("*.safetensors"))
    whole = [entry.read_bytes() for entry in entries]
    entries[0].write_bytes(whole[0][:-8])  # cut short
    entries[1].write_bytes(whole[1][:-8] + b"\0" * 8)  # other numbers
    again = work.prepare(tmp_path / "again", base_path, frozen, training={"epochs": 2})
    work.train(again)
    assert [entry.read_bytes() for entry in entries] == whole
    assert work.content(again) == work.content(first)


def test_a_base_without_a_part_fails_the_run_and_names_it(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    broken = tmp_path / "base"
    shutil.copytree(base_path, broken)
    os.unlink(broken / "tokenizer" / "merges.txt")
    with work.worker() as one:
        one.send(work.prepare(tmp_path / "run", broken, frozen))
        failed = one.until(pipe.RunFailed)
    assert failed.failure.code is Code.INVALID_FILE
    assert "tokenizer/merges.txt" in failed.failure.message


def _unbroken(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture], epochs: int
) -> pipe.Train:
    order = work.prepare(tmp_path / "unbroken", base_path, frozen, training={"epochs": epochs})
    work.train(order)
    return order


def _paint(
    base_path: Path, out: Path, *, lora: Path | None = None, more: Any = (), **spec: Any
) -> pipe.Paint:
    files = [pipe.LoraFile(path=str(lora), weight=0.7, name="things")] if lora else []
    uses = [LoraUse(lora="things", weight=0.7)] if lora else []
    return pipe.Paint(
        job="job", spec=PictureSpec(prompt="a thing", loras=uses, **{"steps": 3, **spec}),
        base_path=str(base_path), loras=files, out=str(out), more=list(more),
    )  # fmt: skip
