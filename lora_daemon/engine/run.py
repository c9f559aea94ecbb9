"""One run, from its directory to its LoRA: load, cache, resume, train, and say how it ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import torch

from lora_daemon.engine import compiled, lora_file, relief
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base, best_precision, checkpointed, ending_in_noise
from lora_daemon.engine.cache import LatentsCache, Moments
from lora_daemon.engine.device import explained, free_cache, poisoned
from lora_daemon.engine.diverged import Evidence, gathered, likely, risen_from, told
from lora_daemon.engine.feed import Choice, Feed, choose
from lora_daemon.engine.files import sweep
from lora_daemon.engine.lora_metadata import Made, fits
from lora_daemon.engine.masks import masks
from lora_daemon.engine.memory import Counted, Need, frozen, in_words
from lora_daemon.engine.optimizers import no_8bit, optimizer_for
from lora_daemon.engine.quantized import NONE
from lora_daemon.engine.resume import Fingerprint, Progress, States
from lora_daemon.engine.samples import Samples
from lora_daemon.engine.session import Session
from lora_daemon.engine.space import Space
from lora_daemon.engine.steering import Commands, Leave, PhaseName, Steering, Tell
from lora_daemon.engine.studio import Studio
from lora_daemon.engine.together import led, world_of
from lora_daemon.engine.train import train
from lora_daemon.engine.versions import versions_of
from lora_daemon.pipe import (
    Finished,
    Freeze,
    Notice,
    Point,
    Resumed,
    RunFailed,
    Serving,
    Skipped,
    Train,
)
from shared import recipe as recipes
from shared.errors import Code, Failure, LoraError
from shared.filenames import typed
from shared.recipe import Recipe, total_steps

Aside = Callable[[], contextlib.AbstractContextManager[None]]
CACHING_TELLING = 0.1  # seconds between two words on how many pictures are cached
DORA = (
    "The file will be a DoRA with the norm of each output, as LyCORIS writes it now. ComfyUI, "
    "diffusers (in PEFT's names) and lora-tui read it so; A1111 takes the norm of each input, and "
    "shows something else. For it make a plain LoRA: `lora-tui lora resize FILE --base BASE --rank "
    "32 --out PLAIN`."
)
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
            _with_its_gpu(States(Path(order.run_dir) / "state"), studio.device)
            _run(order, studio, steering)
    except Leave as leave:  # before the first step: nothing to save
        tell(Finished(run=order.run, outcome=leave.outcome, step=0, loss=float("nan")))
    except Exception as error:
        if not isinstance(error, LoraError):
            traceback.print_exc()
        failure = explained(error).failure()
    finally:
        steering.leave_waiting()
    if failure is not None:
        free_cache()  # only here: the error's frames held on to what they had allocated
        if failure.code is Code.OUT_OF_MEMORY:
            failure = _relieved(failure, order, studio, steering.position[0])
        tell(RunFailed(run=order.run, failure=failure))


def _relieved(failure: Failure, order: Train, studio: Studio, step: int) -> Failure:
    """Where the memory was not enough: with the setting that saves most, if it can be counted."""
    try:
        recipe, freeze = read(Path(order.run_dir))
        counted = Counted(Path(typed(freeze.base_path)), freeze.base_predicts)
        asked = recipe.training.precision
        precision = best_precision(studio.device) if asked == "auto" else asked

        def need(recipe: Recipe) -> Need:
            other = recipe.training.precision
            return counted.need(recipe, precision if other == asked else other, len(freeze.every))

        side = recipe.dataset.resolution or counted.resolution
        limit = relief.available(studio.device)
        offered = relief.settings(recipe, precision, side, studio.device)
        found = relief.relief(recipe, offered, need, limit)
        message = relief.told(found, need(recipe), limit, order.run, step)
    except Exception as error:  # the count is an offer: what it fails of is not the user's fault
        if poisoned(error):
            raise
        traceback.print_exc()
        return failure
    return msgspec.structs.replace(
        failure, message=message, data={**failure.data, **relief.data(found)}
    )


def _run(order: Train, studio: Studio, steering: Steering) -> None:
    run_dir = Path(order.run_dir)
    for folder in ("state", "lora", "samples", "."):
        sweep(run_dir / folder)
    recipe, freeze = read(run_dir)
    steering.enter("loading")
    base = _loaded(studio, recipe, freeze)
    resolution = recipe.dataset.resolution or base.resolution
    _serve(steering, studio, base, contextlib.nullcontext)

    told, stop_at_once = 0.0, False

    def look(phase: PhaseName, done: int, total: int) -> None:
        nonlocal told, stop_at_once
        if done in (0, total) or time.monotonic() - told > CACHING_TELLING:
            told = time.monotonic()
            steering.enter(phase, (done, total))
        try:
            steering.look()
        except Leave as leave:
            if leave.outcome == "suspended" or States(run_dir / "state").newest()[0] is None:
                raise
            stop_at_once = True  # what the run had learnt before becomes its LoRA

    choice, moments = choose(
        recipe.dataset,
        freeze,
        _latents(order, recipe, base, resolution, steering),
        run_dir,
        partial(look, "caching"),
    )
    for path, reason in choice.skipped:
        steering.tell(Skipped(run=order.run, path=path, reason=reason))
    noised = as_trained(recipe, base)
    feed = fed(recipe, noised, freeze, choice, moments, run_dir)
    captions = feed.captions[: feed.trained]
    for notice in _notices(recipe, base, captions, order.devices):
        steering.tell(Notice(run=order.run, message=notice))
    total = total_steps(recipe, feed.trained, feed.shown)
    parts = recipe.training.num_processes
    world = world_of(parts, base.device, order.devices)

    adapter = adapter_for(base, recipe)
    _serve(steering, studio, base, adapter.set_aside)
    try:
        learner = None if stop_at_once else compiled.learner(
            recipe, noised, adapter, feed, partial(look, "compiling"),
            lambda why: steering.tell(Notice(run=order.run, message=why)),
        )  # fmt: skip
        optimizer = optimizer_for(adapter, recipe.optimizer)
        made = Made(
            recipe.output.name or freeze.name,
            recipe,
            freeze,
            base,
            captions,
            resolution,
            total,
            fits(recipe, feed),
        )
        samples = Samples(
            recipe, noised, run_dir, resolution, freeze.base, steering, adapter.averaged,
            freeze.embeddings,
        )  # fmt: skip
        session = Session(
            recipe, made, run_dir, adapter, optimizer,
            Fingerprint.of(base, world, "compiled" if learner else "eager"), steering,
            samples.make, total, feed.steps_per_epoch,
        )  # fmt: skip
        progress = session.restore()
        if progress is None:
            _begin_from(recipe.network.start, base, adapter, steering)
        else:
            _tell_resumed(steering, session.fingerprint, progress)
        if stop_at_once:
            session.stop()
        else:
            samples.catch_up(session.step, feed.steps_per_epoch)
        with (
            checkpointed(base, recipe.training.checkpointing),
            _last_good(
                session,
                partial(gathered, recipe, noised, adapter, feed, _paths(freeze, choice), run_dir),
            ),
            led(order, parts, base.device) as together,
        ):
            train(recipe, noised, adapter, optimizer, feed, session, together, learner)
    finally:
        adapter.remove()


def _loaded(studio: Studio, recipe: Recipe, freeze: Freeze) -> Base:
    """The run's base. Its hash, of gigabytes of weights, is wanted before the first step, so it is
    worked out while pictures are cached, and kept."""
    base = studio.base(
        freeze.base_path, recipe.training.precision, freeze.base_predicts, recipe.base.quantize
    )

    def hash_it() -> None:
        with contextlib.suppress(Exception):  # met again, and told, where it is wanted
            _ = base.model_hash

    threading.Thread(target=hash_it, daemon=True).start()
    return base


def _latents(
    order: Train, recipe: Recipe, base: Base, resolution: int, steering: Steering
) -> LatentsCache:
    """The cache, which waits for room where the disk is full."""
    space = Space(Path(order.run_dir), steering, States(Path(order.run_dir) / "state").thin)
    return LatentsCache(
        Path(order.cache_dir), base, resolution, space.insist, mirrored=recipe.dataset.flip
    )


def _paths(freeze: Freeze, choice: Choice) -> list[str]:
    """Of the pictures that the run uses, in the feed's order."""
    return [freeze.every[one.index].path for one in choice.used]


def adapter_for(base: Base, recipe: Recipe) -> Adapter:
    """A run's adapter before its first step, injected into the base."""
    return Adapter(
        base, recipe.network, recipe.training.seed, recipe.optimizer.text_encoder_rate > 0,
        recipe.training.ema, recipe.optimizer.rates,
    )  # fmt: skip


def as_trained(recipe: Recipe, base: Base) -> Base:
    """The base with the noise and the guidance that the recipe trains it at."""
    if recipe.noise.zero_terminal_snr:
        base = ending_in_noise(base)
    if base.distilled:
        base = replace(base, guidance=recipe.training.guidance)
    return base


def _serve(steering: Steering, studio: Studio, base: Base, aside: Aside) -> None:
    """Let what others ask of the base have its turn, on the plain base."""

    def serve(job: Serving) -> None:
        with aside():
            studio.serve(job, lambda: studio.guest(job.base_path, base, job.base_predicts))

    steering.on_serve = serve


def fed(
    recipe: Recipe, base: Base, freeze: Freeze, choice: Choice, moments: list[list[Moments]],
    run_dir: Path,
) -> Feed:  # fmt: skip
    """What the run is fed. Raises LoraError: masks that cannot be read."""
    used = [freeze.every[one.index] for one in choice.used]
    regular = sum(one.index >= len(freeze.pictures) for one in choice.used)
    masked = None
    if recipe.dataset.alpha_mask or recipe.dataset.mask_folder:
        scale = base.pixels_per_latent
        sizes = [(one.mean.shape[-1] * scale, one.mean.shape[-2] * scale) for one, *_ in moments]
        versions = versions_of(freeze, recipe.dataset)
        own = [versions[one.index] for one in choice.used]
        masked = masks(run_dir, used, own, sizes, scale)
    captions = [picture.caption for picture in used]
    return Feed(recipe, base, moments, captions, regular, masked, freeze.wildcards)


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


@contextlib.contextmanager
def _last_good(session: Session, look_into: Callable[[Point], Evidence]) -> Iterator[None]:
    """Where a run diverges, what it had learnt before is kept, and the likely cause is told."""
    try:
        yield
    except LoraError as error:
        if error.code is Code.DIVERGED and session.bad is not None:
            evidence = look_into(session.bad)
            raise _with_last_good(session, evidence, error) from None
        raise


def _with_last_good(session: Session, evidence: Evidence, error: LoraError) -> LoraError:
    """Keep the LoRA of the newest state from before the divergence, and say so."""
    state, _ = session.states.newest()
    cause, data, kept = likely(evidence), dict(error.data), "Nothing good was saved before."
    at = 0
    if state is not None and state.progress.step:
        at = session.step = state.progress.step
        session.put_back(state)
        session.keep()
        kept = f"The LoRA of step {at}, the last good state, is kept as {session.lora}."
        data |= {"kept": session.lora, "kept_step": at}
        if (risen := risen_from(evidence.points)) and at >= risen:
            at = max((step for step in session.kept_steps() if step < risen), default=0)
            kept += f" The loss had been rising since step {risen}."
    return LoraError(
        error.code, f"{error.message} {told(cause, session.steering.run, at)} {kept}",
        data={**data, "settings": cause.settings, "at": at},
    )  # fmt: skip


def _tell_resumed(steering: Steering, now: Fingerprint, progress: Progress) -> None:
    why = now.differs(progress.fingerprint)
    if not why and not now.exact:
        why = f"{now.dtype} on {now.device} does not repeat bit for bit"
    steering.tell(Resumed(run=steering.run, step=progress.step, identical=not why, why=why))


def _notices(
    recipe: Recipe, base: Base, captions: list[str], devices: Sequence[str]
) -> Iterator[str]:  # fmt: skip
    """What a user should know before it is trained."""
    parts = recipe.training.num_processes
    if (world := world_of(parts, base.device, devices)) < parts:
        yield (
            f"The recipe is for {parts} processes, and {world} can train here: each does the work "
            "of several. The LoRA is the same but for rounding; it takes longer."
        )
    if base.dtype == torch.float16 and recipe.training.precision == "auto":
        yield "This GPU has no bf16, so the base is in fp16, and its losses are scaled."
    if base.quantize != NONE:
        now, whole = frozen(base)
        yield (
            f"The base is kept in 8 bits ({base.quantize}): {in_words(now)} with its text encoders "
            f"and its VAE, instead of {in_words(whole)}. Pictures asked for beside the run load it "
            "in full as well."
        )
    windows = recipe.dataset.windows
    if long := sum(not base.fits(caption, windows) for caption in captions):
        more = base.room(3) > base.room(windows)
        yield (
            f"{long} of {len(captions)} captions are longer than {base.room(windows)} tokens; the "
            "text encoder does not see what is beyond. "
            + ("A larger dataset.windows reads more." if more else "Shorten them.")
        )
    if recipe.network.kind == "dora":
        yield DORA
    if recipe.optimizer.kind == "adamw8bit" and (why := no_8bit(base.device)):
        yield (
            f"AdamW cannot be had in 8 bits: {why}. It is used in 32 bits, which does the same in "
            "a few megabytes more."
        )


def _with_its_gpu(states: States, device: torch.device) -> None:
    """A run that a GPU trained goes on without one only where somebody has hidden it: one that fell
    away would else be found out days later. Raises LoraError(WRONG_STATE)."""
    state, _ = states.newest()
    if device.type != "cpu" or state is None or state.progress.fingerprint.device == "cpu":
        return
    if os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        before = state.progress.fingerprint.device.removeprefix("cuda ")
        raise LoraError(
            Code.WRONG_STATE,
            f"{before} trained this run up to step {state.progress.step}, and torch finds no GPU "
            "now: `lora-tui doctor` says what it sees. Nothing is lost: resume the run when the "
            "GPU is back. To go on on the CPU: `CUDA_VISIBLE_DEVICES= lora-tui daemon restart`, "
            "then resume it.",
        )


def read(run_dir: Path) -> tuple[Recipe, Freeze]:
    """What a run is of. Raises LoraError."""
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
