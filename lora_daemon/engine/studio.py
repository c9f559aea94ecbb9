"""The studio: the base that stays resident, what is painted with it, and what is asked of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from lora_daemon.engine import (
    bases,
    captioner,
    company,
    effects,
    embeddings,
    inputs,
    lessons,
    lora_file,
    moments,
    overflow,
    quantized,
    weighing,
    wording,
)
from lora_daemon.engine.bases import Base
from lora_daemon.engine.captioner import Captioner
from lora_daemon.engine.device import explained, free_cache
from lora_daemon.engine.generate import MAX_BATCH, Turn, latent_shape, paint, save_png, sized
from lora_daemon.engine.measuring import Measurer
from lora_daemon.engine.mix import Mix, strength, taking_part, turning
from lora_daemon.engine.pace import Paces
from lora_daemon.engine.previews import Previewer
from lora_daemon.engine.steering import Tell
from lora_daemon.pipe import (
    Canvas,
    Describe,
    Described,
    DescribeFailed,
    Gather,
    Gathered,
    GoesOn,
    LoraFile,
    Measure,
    Measured,
    MeasureFailed,
    Paint,
    Painted,
    PaintFailed,
    PaintStep,
    Probe,
    Probed,
    ProbeFailed,
    Recognise,
    Recognised,
    Serving,
    Weigh,
    Weighed,
    Zip,
    Zipped,
)
from shared.errors import Code, Failure, LoraError
from shared.filenames import to_text, typed
from shared.lora_info import inspect
from shared.pictures import parameters_text, steps_between
from shared.wire import Objective

Cancelled = Callable[[str], bool]  # whether the job with this id is to be given up
_FAILED: dict[type[Serving], type[PaintFailed | ProbeFailed | MeasureFailed]] = {
    Paint: PaintFailed, Probe: ProbeFailed, Gather: ProbeFailed, Measure: MeasureFailed,
    Zip: ProbeFailed, Weigh: ProbeFailed, Recognise: ProbeFailed,
}  # fmt: skip
STEP_TELLING = 0.2  # seconds between two reports of one job's progress
GOES_ON = 10.0  # seconds between two words of a job that tells nothing else


@dataclass(frozen=True)
class _Mixed:
    """The mix that stays stacked from one picture to the next, and what was read with it."""

    key: list[tuple[str, object]]  # name and stamp of each file
    mix: Mix
    hashes: dict[str, str]  # name → short hash
    notes: list[str]
    learnt: dict[str, list[Tensor]]  # embeddings that the files carry
    speakers: set[str]  # those that change a text encoder

    def wordless(self, uses: Sequence[LoraFile]) -> list[str]:
        """Whose text encoder part is left out because they act in a region, in sentences."""
        return [
            f"{use.name} acts in a region, and words have no place: its text encoder part was left "
            "out. Give it a text weight to have it everywhere."
            for use in uses
            if use.region and use.text_weight is None and use.weight and use.name in self.speakers
        ]


class Studio:
    """One device, one resident base. A run and the pictures between its steps share it."""

    def __init__(self, device: torch.device, tell: Tell, cancelled: Cancelled) -> None:
        self.device = device
        self.tell = tell
        self.cancelled = cancelled
        self._spoke = 0.0  # when a word was said of a job
        self._waits = ""  # the job that is being served, if it is a picture
        self._resident: Base | None = None
        self._precision = ""
        self._mixed: dict[bool, _Mixed] = {}  # a picture's LoRAs; True: a distilled one beside them
        self._paces = Paces()  # on the resident base
        self._measurer: Measurer | None = None
        self._previewer: Previewer | None = None
        self._captioner: tuple[object, Captioner] | None = None  # with what it was asked by

    def base(
        self, path: str, precision: str = "", predicts: Objective | None = None,
        quantize: str = quantized.NONE,
    ) -> Base:  # fmt: skip
        """The base at ``path``, loaded if it is not the resident one, or not as it was.

        ``precision``: empty takes the resident one as it is. ``predicts``: None as its files say.
        ``quantize``: none, fp8 or int8. Raises LoraError.
        """
        place = _place(path)
        resident = self._resident
        if (
            resident
            and (resident.path, resident.stamp) == (place, bases.stamp(place))
            and precision in ("", self._precision)
            and predicts in (None, resident.objective)
            and quantize == resident.quantize
        ):
            return resident
        self._mixed.clear()
        self._paces = Paces()
        self._measurer = self._previewer = None
        self._resident = resident = None  # let go of it before loading: two might not fit
        free_cache()
        self._precision = precision or "auto"
        self._resident = self._load(place, self._precision, predicts, quantize)
        return self._resident

    def _load(
        self, place: Path, precision: str, predicts: Objective | None,
        quantize: str = quantized.NONE,
    ) -> Base:  # fmt: skip
        """Load a base; who waits for a picture is told."""
        if self._waits:
            before = f"loading {to_text(place.stem if place.is_file() else place.name)}"
            self.tell(PaintStep(job=self._waits, step=0, steps=0, before=before))
        return bases.load(place, self.device, precision, predicts, quantize)

    def guest(self, path: str, host: Base, predicts: Objective | None = None) -> Base:
        """A base for pictures while ``host`` is training: the host itself, or another beside it.

        One in 8 bits is its run's alone: pictures and measures are kept, and would be others by
        when they were asked for."""
        place = _place(path)
        if place == host.path and host.quantize == quantized.NONE:
            return host
        return self._load(place, "auto", predicts)

    def serve(self, job: Serving, base: Callable[[], Base]) -> None:
        """Do a job and tell how it went. Only a poisoned device raises."""
        began = self._spoke = time.monotonic()
        failure: Failure | None = None
        try:
            self._check(job.job)
            match job:
                case Paint():
                    self._waits = job.job
                    painted = self._paint(job, base())
                    self.tell(msgspec.structs.replace(painted, seconds=time.monotonic() - began))
                case Probe():
                    self._probe(job, base())
                case Gather():
                    self._gather(job, base())
                case Measure():
                    self._measure(job, base())
                case Zip():
                    self._zip(job, base())
                case Weigh():
                    self._weigh(job, base())
                case Recognise():
                    self._recognise(job, base())
        except Exception as error:
            failure = explained(error).failure()
        finally:
            self._waits = ""
        if failure is not None:
            free_cache()  # only here: the error's frames held on to what they had allocated
            self.tell(_FAILED[type(job)](job=job.job, failure=failure))

    def _check(self, job: str) -> None:
        if self.cancelled(job):
            raise LoraError(Code.CANCELLED, "It was cancelled.")

    def _step(self, job: str) -> None:
        """As ``_check``, at each step of a job; now and then it is said that it gets on."""
        self._check(job)
        if (now := time.monotonic()) - self._spoke > GOES_ON:
            self._spoke = now
            self.tell(GoesOn(job=job))

    def _probe(self, job: Probe, base: Base) -> None:
        mixed = self._mix(job.loras, base)
        rows = [[strength(use) for use in row] for row in job.rows]
        check = partial(self._step, job.job)
        with _speaking(base, mixed.learnt, job.embeddings):
            products = effects.inner_products(base, mixed.mix, rows, job.spec, job.step, check)
        self.tell(Probed(job=job.job, products=products.tolist(), notes=mixed.notes))

    def _gather(self, job: Gather, base: Base) -> None:
        loras = [_place(path) for path in job.loras]
        with _speaking(base, embeddings.carried(loras, base), job.embeddings):
            found = inputs.measure(base, loras, job.specs, partial(self._step, job.job))
        moments.save(_place(job.out), found)
        self.tell(Gathered(job=job.job, modules=len(found.modules), left_out=found.left_out))

    def _measure(self, job: Measure, loaded: Base) -> None:
        measurer = self._measurer
        if measurer is None or measurer.base is not loaded:
            measurer = Measurer(loaded)
        if loaded is self._resident:  # a guest's would keep the guest
            self._measurer = measurer
        rows, skipped = measurer.rows(
            job, self._mix(job.loras, loaded).mix.on, partial(self._step, job.job)
        )
        self.tell(Measured(job=job.job, rows=rows, skipped=skipped))

    def _weigh(self, job: Weigh, base: Base) -> None:
        mixed, check = self._mix([job.lora], base), partial(self._step, job.job)
        with _speaking(base, mixed.learnt, job.embeddings):
            found = weighing.effect(mixed.mix, strength(job.lora), job.spec, check)
        self.tell(Weighed(job=job.job, effect=found))

    def _recognise(self, job: Recognise, base: Base) -> None:
        mixed, check = self._mix(job.loras, base), partial(self._step, job.job)
        painted, *rows = (partial(taking_part, one) for one in (job.painted, *job.rows))
        with _speaking(base, mixed.learnt, job.embeddings):
            errors = company.log_errors(mixed.mix, painted, rows, job.spec, check)
        self.tell(Recognised(job=job.job, errors=errors, notes=mixed.notes))

    def _zip(self, job: Zip, base: Base) -> None:
        mixed = self._mix(job.loras, base)
        lesson = lessons.Lesson(
            [strength(use) for use in job.loras], job.pictures, _place(job.folder),
            _place(job.out), job.steps, job.rate, job.penalty, job.seed, job.about,
        )  # fmt: skip
        with _speaking(base, mixed.learnt, job.embeddings):
            done = lessons.go_on(mixed.mix, lesson, partial(self._step, job.job))
        self.tell(Zipped(job=job.job, done=done, total=lesson.total, notes=mixed.notes))

    def describe(self, job: Describe) -> None:
        """Do a captioning order and tell how it went. Only a poisoned device raises."""
        failure: Failure | None = None
        try:
            self._describe(job)
        except Exception as error:
            failure = explained(error).failure()
        if failure is not None or not job.more:
            self._captioner = None
            free_cache()
        if failure is not None:
            self.tell(DescribeFailed(job=job.job, failure=failure))

    def _describe(self, job: Describe) -> None:
        def check() -> None:
            if self.cancelled(job.job):
                raise LoraError(Code.CANCELLED, "The captioning was cancelled.")

        check()
        wanted = (job.model, job.manner)
        if self._captioner is None or self._captioner[0] != wanted:
            self._captioner = None  # let go of it before loading: two might not fit
            loaded = captioner.load(_place(job.model), self.device, job.manner)
            self._captioner = (wanted, loaded)
        asked = self._captioner[1]
        warned = [asked.warning] * bool(asked.warning)
        done, few = 0, list[str]()
        for captions, skipped, batch in captioner.describe(asked, job.pictures, check, job.prompts):
            done += len(captions) + len(skipped)
            if batch < captioner.BATCH and not few:
                few = [f"The memory was enough for {batch} pictures at once only."]
            notes = warned + few
            last = done == len(job.pictures)
            self.tell(
                Described(job=job.job, captions=captions, skipped=skipped, last=last, notes=notes)
            )

    def _paint(self, job: Paint, base: Base) -> Painted:
        canvases = [Canvas(spec=job.spec, out=job.out), *job.more]
        canvases = [_with_size(canvas, base) for canvas in canvases]
        mixed = self._mix(job.loras, base)
        total = sum(canvas.spec.work for canvas in canvases)
        done, at, told = 0, 0, 0.0

        def progress(pictures: int, steps: int) -> None:
            nonlocal at, told
            self._check(job.job)
            at = done + steps * pictures
            if time.monotonic() - told > STEP_TELLING or at in (0, total):
                told = time.monotonic()
                self.tell(PaintStep(job=job.job, step=at, steps=total))

        previewer = self._previewing(base)
        way = job.previews and previewer.way(
            job.previews,
            lambda seen: self.tell(PaintStep(job=job.job, step=at, steps=total, seen=seen)),
        )

        def look(expected: Callable[[], Tensor]) -> None:
            if way and job.previews and at >= job.previews.after * total:
                way(expected)

        first = ""
        progress(0, 0)
        with contextlib.ExitStack() as stack:
            stack.enter_context(mixed.mix.on(fold=self._folded(mixed.mix, job, canvases, base)))
            if job.distilled is not None:
                beside = self._mix([job.distilled], base, beside=True)
                stack.enter_context(beside.mix.on())
            stack.enter_context(_speaking(base, mixed.learnt, job.embeddings))
            for group in _together(canvases, base):
                specs = [canvas.spec for canvas in group]
                turn = _turn(mixed.mix, job.loras, specs[0].steps)
                with overflow.named(base, job.loras):
                    pictures = paint(
                        base, specs, partial(progress, len(specs)), turn=turn, until=job.guided,
                        look=look, decode=previewer.decoding(job.previews),
                    )  # fmt: skip
                for canvas, picture in zip(group, pictures, strict=True):
                    text = parameters_text(
                        msgspec.structs.replace(canvas.spec, loras=job.spec.loras),
                        model=canvas.spec.base, model_hash=base.model_hash[:10],
                        lora_hashes={
                            use.name: mixed.hashes[use.name]
                            for use in job.loras
                            if use.weight or use.text_weight
                        },
                    )  # fmt: skip
                    save_png(Path(canvas.out), picture, text)
                    first = first or text
                done += sum(spec.work for spec in specs)
        width, height = canvases[0].spec.final_size
        return Painted(
            job=job.job,
            width=width,
            height=height,
            parameters=first,
            seconds=0.0,
            notes=[*mixed.notes, *mixed.wordless(job.loras), *previewer.told()],
        )

    def _previewing(self, base: Base) -> Previewer:
        previewer = self._previewer
        if previewer is None or previewer.base is not base:
            previewer = Previewer(base)
        if base is self._resident:  # a guest's would keep the guest
            self._previewer = previewer
        return previewer

    def _folded(self, mix: Mix, job: Paint, canvases: Sequence[Canvas], base: Base) -> bool:
        """Whether the LoRAs are folded into the weights for a job: by its first picture, so that
        this one has the same pixels whatever follows it."""
        if base is not self._resident or any(use.region or use.guidance for use in job.loras):
            return False
        spec = canvases[0].spec
        _, _, height, width = latent_shape(base, spec.width, spec.height)
        guided = spec.cfg > 1 and not base.distilled
        return self._paces.pays(mix, spec.work, height, width, guided)

    def _mix(self, uses: Sequence[LoraFile], base: Base, *, beside: bool = False) -> _Mixed:
        """The LoRAs on a base at their weights. While only weights change, files are not read and
        nothing is stacked again. ``beside``: on top of others. Raises LoraError."""
        key = [(use.name, stamp(Path(typed(use.path)))) for use in uses]
        mixed = self._mixed.get(beside)
        if mixed is None or mixed.mix.base is not base or mixed.key != key:
            mixed = None
            self._mixed.pop(beside, None)  # let go of it first, as with a base
            files = [(use, lora_file.load(Path(typed(use.path)), base)) for use in uses]
            if beside:
                _addable(files)
            mixed = _Mixed(
                key=key,
                mix=Mix(base, [weights.modules for _, weights in files]),
                hashes={use.name: _short_hash(use) for use in uses},
                notes=[_unplaced(use, w) for use, w in files if w.unplaced],
                learnt=embeddings.carried((_place(use.path) for use in uses), base),
                speakers={
                    use.name for use, w in files if any(m.network != "unet" for m in w.modules)
                },
            )
            if base is self._resident:  # a guest's would keep the guest
                self._mixed[beside] = mixed
        mixed.mix.set([strength(use) for use in uses])
        return mixed


def _speaking(
    base: Base, carried: Mapping[str, list[Tensor]], named: Sequence[tuple[str, str]]
) -> AbstractContextManager[None]:
    """Prompts may name these textual inversions: those that LoRAs carry, and files."""
    own = {name.lower(): embeddings.load(_place(path), base) for name, path in named}
    return wording.learnt(base, {**carried, **own})


def _place(path: str) -> Path:
    return Path(typed(path))


def _turn(mix: Mix, uses: Sequence[LoraFile], steps: int) -> Turn:
    """Takes LoRAs in and out when their part of the steps begins and ends."""
    whole = all(steps_between(use.begin, use.end, steps) == (0, steps) for use in uses)
    given = taking_part(uses, 0, steps) if whole else []  # as it is set; else it is set first
    return turning(mix, lambda step: taking_part(uses, step, steps), given)


def _with_size(canvas: Canvas, base: Base) -> Canvas:
    width, height = sized(canvas.spec, base)
    spec = msgspec.structs.replace(canvas.spec, width=width, height=height)
    return Canvas(spec=spec, out=canvas.out)


def _together(canvases: Sequence[Canvas], base: Base) -> list[list[Canvas]]:
    """Groups of pictures that can be computed together. The first is always made alone, so that a
    job of one picture has the same pixels whatever follows it."""
    groups: dict[tuple[object, ...], list[Canvas]] = {}
    for canvas in canvases[1:]:
        spec = canvas.spec
        said = max(wording.windows_of(base, text) for text in (spec.prompt, spec.negative))
        key = (spec.width, spec.height, spec.sampler, spec.steps, spec.cfg, spec.start, spec.second,
               said)  # fmt: skip
        groups.setdefault(key, []).append(canvas)
    batches = [
        group[first : first + MAX_BATCH]
        for group in groups.values()
        for first in range(0, len(group), MAX_BATCH)
    ]
    return [[canvases[0]], *batches]


def _addable(files: Sequence[tuple[LoraFile, lora_file.Weights]]) -> None:
    """Raises LoraError(INVALID_FILE) for a DoRA: its share of the module's own output would be one
    of what other LoRAs have added to that, too."""
    for use, weights in files:
        if any(module.magnitude is not None for module in weights.modules):
            raise LoraError(
                Code.INVALID_FILE,
                f"{use.name} is a DoRA, which cannot be put on top of others exactly. "
                "`lora-tui lora resize` with --base makes plain pairs of it.",
            )


def _unplaced(use: LoraFile, weights: lora_file.Weights) -> str:
    lost, used = len(weights.unplaced), len(weights.modules)
    doubt = " (is it for another base?)" if lost >= used else ""
    names = ", ".join(weights.unplaced[:3]) + (f" and {lost - 3} more" if lost > 3 else "")
    return (
        f"{use.name}: this base has no place for {lost} of its {lost + used} modules{doubt}, and "
        f"leaves out {names}."
    )


def stamp(path: Path) -> object:
    """What tells one state of a file from another. Raises LoraError(NOT_FOUND)."""
    try:
        now = path.stat()
    except OSError:
        raise LoraError(Code.NOT_FOUND, f"There is no file {path}.") from None
    return (path, now.st_size, now.st_mtime_ns, now.st_ino)


def _short_hash(use: LoraFile) -> str:
    return inspect(Path(typed(use.path))).model_hash[:12]
