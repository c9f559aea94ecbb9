"""One run, from its directory to its LoRA: load, cache, resume, train, and say how it ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lora_daemon.engine import lora_file
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache
from lora_daemon.engine.device import explained, free_cache
from lora_daemon.engine.feed import Feed, choose
from lora_daemon.engine.files import sweep
from lora_daemon.engine.lora_metadata import Made
from lora_daemon.engine.optimizers import optimizer_for
from lora_daemon.engine.resume import Fingerprint, Progress, States
from lora_daemon.engine.samples import Samples
from lora_daemon.engine.session import Session
from lora_daemon.engine.steering import Commands, Leave, Steering, Tell
from lora_daemon.engine.studio import Serving, Studio
from lora_daemon.engine.train import train
from lora_daemon.pipe import Finished, Freeze, Notice, Resumed, RunFailed, Skipped, Train
from shared import recipe as recipes
from shared.errors import Code, Failure, LoraError
from shared.recipe import Recipe, total_steps

CACHING_TELLING = 0.1  # seconds between two words on how many pictures are cached
PATIENCE = 2.0  # seconds that a trainer which was just killed is given to be gone


def run(order: Train, studio: Studio, commands: Commands, tell: Tell) -> None:
    """Train a run to its end, or to where it is told to leave it, and tell how it went.

    Only a poisoned device raises: the process is then of no use.
    """
    steering = Steering(order.run, commands, tell)
    steering.on_describe = studio.describe
    failure: Failure | None = None
    try:
        with _locked(Path(order.run_dir)):
            _run(order, studio, steering)
    except Leave as leave:  # before the first step: nothing to save
        tell(Finished(run=order.run, outcome=leave.outcome, step=0, loss=float("nan")))
    except Exception as error:
        if not isinstance(error, LoraError):
            traceback.print_exc()
        failure = explained(error).failure()
    if failure is not None:
        free_cache()  # only here: the error's frames held on to what they had allocated
        tell(RunFailed(run=order.run, failure=failure))


def _run(order: Train, studio: Studio, steering: Steering) -> None:
    run_dir = Path(order.run_dir)
    for folder in ("state", "lora", "samples", "."):
        sweep(run_dir / folder)
    recipe, freeze = _read(run_dir)
    steering.enter("loading")
    base = studio.base(freeze.base_path, recipe.training.precision, freeze.base_predicts)
    resolution = recipe.dataset.resolution or base.resolution
    steering.on_paint = lambda job: studio.serve(job, lambda: _guest(studio, job, base))

    told, stop_at_once = 0.0, False

    def look(done: int, total: int) -> None:
        nonlocal told, stop_at_once
        if done in (0, total) or time.monotonic() - told > CACHING_TELLING:
            told = time.monotonic()
            steering.enter("caching", (done, total))
        try:
            steering.look()
        except Leave as leave:
            if leave.outcome == "suspended" or States(run_dir / "state").newest()[0] is None:
                raise
            stop_at_once = True  # what the run had learnt before becomes its LoRA

    choice, moments = choose(
        freeze, LatentsCache(Path(order.cache_dir), base, resolution), run_dir, look
    )
    for path, reason in choice.skipped:
        steering.tell(Skipped(run=order.run, path=path, reason=reason))
    captions = [freeze.pictures[one.index].caption for one in choice.used]
    _notice_long_captions(base, captions, steering)
    feed = Feed(recipe, base, moments, captions)
    total = total_steps(recipe, len(moments))

    adapter = Adapter(
        base, recipe.network, recipe.training.seed, recipe.optimizer.text_encoder_rate > 0,
        recipe.training.ema,
    )  # fmt: skip
    try:
        optimizer = optimizer_for(adapter, recipe.optimizer)
        made = Made(
            recipe.output.name or freeze.name, recipe, freeze, base, captions, resolution, total
        )
        samples = Samples(
            recipe, base, run_dir, resolution, freeze.base, steering, adapter.averaged
        )
        session = Session(
            recipe, made, run_dir, adapter, optimizer, Fingerprint.of(base), steering,
            samples.make, total, feed.steps_per_epoch,
        )  # fmt: skip
        steering.on_paint = lambda job: _paint_aside(studio, job, base, adapter)
        progress = session.restore()
        if progress is None:
            _begin_from(recipe.network.start, base, adapter, steering)
        else:
            _tell_resumed(steering, session.fingerprint, progress)
            if stop_at_once:
                session.stop()
            else:
                samples.catch_up(session.step, feed.steps_per_epoch)
        try:
            train(recipe, base, adapter, optimizer, feed, session)
        except LoraError as error:
            if error.code is Code.DIVERGED:
                raise _with_last_good(session, error) from None
            raise
    finally:
        adapter.remove()


def _guest(studio: Studio, job: Serving, host: Base) -> Base:
    return studio.guest(job.base_path, host, job.base_predicts)


def _begin_from(start: str, base: Base, adapter: Adapter, steering: Steering) -> None:
    """Let the adapter begin from a LoRA file, if one is named. Raises LoraError."""
    if not start:
        return
    weights = lora_file.load(Path(start).expanduser(), base)
    adapter.begin_from(weights.modules, start)
    if weights.unplaced:
        steering.tell(
            Notice(
                run=steering.run,
                message=f"{start}: this base has no place for {len(weights.unplaced)} of its "
                f"modules, such as {weights.unplaced[0]}; they were left out.",
            )
        )


def _paint_aside(studio: Studio, job: Serving, base: Base, adapter: Adapter) -> None:
    """Paint between two steps, on the plain base."""
    with adapter.set_aside():
        studio.serve(job, lambda: _guest(studio, job, base))


def _with_last_good(session: Session, error: LoraError) -> LoraError:
    """Keep the LoRA of the newest state from before the divergence, and say so."""
    state, _ = session.states.newest()
    if state is None or not state.progress.step:
        return LoraError(error.code, f"{error.message} Nothing good was saved before.",
                         data=error.data)  # fmt: skip
    session.step = state.progress.step
    session.put_back(state)
    session.keep()
    return LoraError(
        error.code,
        f"{error.message} The LoRA of step {session.step}, the last good state, is kept as "
        f"{session.lora}.",
        data={**error.data, "kept": session.lora, "kept_step": session.step},
    )


def _tell_resumed(steering: Steering, now: Fingerprint, progress: Progress) -> None:
    why = now.differs(progress.fingerprint)
    if not why and not now.exact:
        why = f"{now.dtype} on {now.device} does not repeat bit for bit"
    steering.tell(Resumed(run=steering.run, step=progress.step, identical=not why, why=why))


def _notice_long_captions(base: Base, captions: list[str], steering: Steering) -> None:
    long = sum(not base.fits(caption) for caption in captions)
    if long:
        steering.tell(
            Notice(
                run=steering.run,
                message=f"{long} of {len(captions)} captions are longer than 75 tokens; the text "
                "encoder does not see what is beyond.",
            )
        )


def _read(run_dir: Path) -> tuple[Recipe, Freeze]:
    recipe = recipes.load(run_dir / "recipe.toml")
    path = run_dir / "freeze.json"
    try:
        return recipe, msgspec.json.decode(path.read_bytes(), type=Freeze)
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    except msgspec.MsgspecError as error:
        raise LoraError(Code.INVALID_FILE, f"{path} is damaged ({error}).") from None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Hold the run directory's lock: two trainers in it would tear each other's files."""
    try:
        descriptor = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LoraError.storage("lock", run_dir, error) from None
    try:
        limit = time.monotonic() + PATIENCE
        while not _try_lock(descriptor):
            if time.monotonic() > limit:
                raise LoraError(
                    Code.BUSY, f"Another process is training in {run_dir}.", retryable=True
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
