"""The pipe between the daemon and its engine worker: message types and framing. No torch.

One Unix socket pair. Each frame is a 4-byte little-endian length and a msgpack message. When the
pipe closes, the worker ends; when the worker ends, the pipe closes: neither outlives the other.
"""

from __future__ import annotations

import socket
import struct
from typing import Literal

import msgspec

from shared.errors import Failure
from shared.framing import Framing, Size
from shared.mixes import Decoder
from shared.pictures import LoraUse, PictureSpec
from shared.regions import Region
from shared.wire import Objective, TagCategory

MAX_FRAME = 16 * 1024 * 1024
_LENGTH = struct.Struct("<I")


# ── what a run freezes when it is queued ────────────────────────────────────────────────────────


class FrozenPicture(msgspec.Struct, frozen=True, kw_only=True):
    """One training picture as it was when the run was queued."""

    item: str
    path: str  # absolute, as shared.filenames has it
    content: str  # SHA-256 of the file's bytes, hex
    caption: str
    mask: str = ""  # path of the file that says what counts of it
    mask_content: str = ""
    framing: Framing = Framing()  # how it is turned and cropped
    bucket: Size | None = None  # that it is trained at; None: a square of the run's resolution


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """``freeze.json`` in the run directory: all a run needs besides its recipe, fixed at queueing.

    The order of ``pictures`` is the order of the samples' indices; those of ``regularisation``,
    which show the class and not the subject, follow them.
    """

    run: str
    name: str  # of the LoRA file, without suffix
    base: str  # the base's name
    base_path: str  # absolute path of the diffusers folder or the file
    base_predicts: Objective | None = None  # None: as its files say
    dataset: str
    pictures: list[FrozenPicture]
    skipped: list[tuple[str, str]]  # (path, reason)
    queued_at: float  # Unix seconds; also ss_training_started_at
    held_out: list[FrozenPicture] = []  # kept back from training, to judge checkpoints by
    regularisation: list[FrozenPicture] = []
    wildcards: dict[str, list[str]] = {}  # lines to choose from, by name
    embeddings: list[tuple[str, str]] = []  # textual inversions that samples name, and their files
    versions: list[int] = []  # how many there are of each picture in ``every``; empty: one

    @property
    def every(self) -> list[FrozenPicture]:
        return [*self.pictures, *self.regularisation]


# ── daemon → worker ─────────────────────────────────────────────────────────────────────────────


class Train(msgspec.Struct, frozen=True, kw_only=True, tag="train"):
    """Run (or go on with) the run in ``run_dir``: recipe.toml, freeze.json, state/ if any.

    ``devices``: what CUDA_VISIBLE_DEVICES is to say to each of its processes, this one first; none:
    all see what this one sees.
    """

    run: str
    run_dir: str
    cache_dir: str
    devices: list[str] = []


class Steer(msgspec.Struct, frozen=True, kw_only=True, tag="steer"):
    """Obeyed at the next step boundary (or between two pictures while caching).

    pause/resume; sample and save: now, besides the recipe's own; stop: save the LoRA and finish;
    suspend: publish a resume state and leave the run interrupted, as before a daemon's end.
    """

    run: str
    action: Literal["pause", "resume", "sample", "save", "stop", "suspend"]


class LoraFile(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA at its weights, as ``shared.pictures.LoraUse`` has them."""

    path: str
    weight: float
    name: str
    text_weight: float | None = None
    blocks: list[float] = []
    begin: float = 0.0
    end: float = 1.0
    region: Region | None = None
    guidance: float = 0.0


class Previews(msgspec.Struct, frozen=True, kw_only=True):
    """How a picture is shown before it is done (``engine.previews``), by a decoder that is quicker
    than the base's VAE.

    ``way``: pictures on the way are put at this path, with a number behind it, but none before
    ``after``, a part of the steps. ``itself``: the picture is no more than a preview.
    """

    cache: str  # folder of what is kept of bases' VAEs
    folder: str  # of networks of TAESD's kind
    way: str
    after: float = 0.0
    itself: bool = False
    decoder: Decoder = "auto"


class Canvas(msgspec.Struct, frozen=True, kw_only=True):
    """One more picture of a job: ``spec.loras`` is ignored, the job's hold for all."""

    spec: PictureSpec
    out: str


class Paint(msgspec.Struct, frozen=True, kw_only=True, tag="paint"):
    """Make one picture at ``out`` (PNG). During training it takes its turn at a step boundary.

    ``more``: further pictures with the same base and LoRAs, for measuring many prompts quickly.
    Those that differ in words and seeds alone are computed together, so that their last bits may
    differ from the same picture made alone. ``embeddings``: textual inversions that the prompts
    name, with their files. ``patient``: one of many; a run goes on between two of them for as long
    as the first took. ``distilled``: a LoRA for few steps, beside the others; it is stacked apart,
    so that pictures without it neither change nor wait for it. ``guided``: the part of the steps,
    from the first, that guidance is asked for; without it a step costs half. ``previews``: none is
    shown before the picture is done.
    """

    job: str
    spec: PictureSpec
    base_path: str
    loras: list[LoraFile]
    out: str
    more: list[Canvas] = []
    base_predicts: Objective | None = None  # None: as its files say
    embeddings: list[tuple[str, str]] = []
    patient: bool = False
    distilled: LoraFile | None = None
    guided: float = 1.0
    previews: Previews | None = None


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How a captioner is to be asked; what is empty is left to it. wire.CaptionPictures says what
    each means."""

    prompt: str = ""
    max_tokens: int = 0
    threshold: float | None = None
    categories: tuple[TagCategory, ...] = ()
    blacklist: tuple[str, ...] = ()

    @property
    def of_tagger(self) -> bool:
        """Whether something is said that only a tagger understands."""
        return self.threshold is not None or bool(self.categories or self.blacklist)


class Describe(msgspec.Struct, frozen=True, kw_only=True, tag="describe"):
    """Caption some pictures. During training it takes its turn at a step boundary, so ``pictures``
    are few; the captioner stays resident until an order without ``more``."""

    job: str
    model: str  # absolute path of its folder, as shared.filenames has it
    pictures: list[tuple[str, str]]  # (item, absolute path)
    more: bool
    manner: Manner = Manner()
    prompts: dict[str, str] = {}  # by item, their fields filled in; none: the captioner's own


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Measure LoRAs on a base (engine/measuring.py says how). During training it takes its turn at
    a step boundary, so an order is small.

    ``loras``: none is the bare base, several are their weighted sum. Rows of the answer, by
    ``what``: "loss", of each picture, at each timestep; "drift", of each prompt in ``texts``, at
    each timestep; "leak", of each of ``captions``, [without, with] the trigger word; "nearness",
    [of each picture in ``painted``] and [of some pictures to the others].
    """

    job: str
    what: Literal["loss", "drift", "leak", "nearness"]
    base_path: str
    base_predicts: Objective | None = None
    loras: list[LoraFile]
    cache_dir: str
    resolution: int
    seed: int
    timesteps: tuple[int, int]  # the first, and the first that is no longer measured
    pictures: list[FrozenPicture] = []
    texts: list[str] = []
    captions: list[tuple[str, str]] = []  # without their trigger word, and with it
    painted: list[str] = []  # absolute paths
    reading: tuple[int, int, Literal["kohya", "webui"]] = (1, 1, "kohya")  # engine.bases.Reading


class Probe(msgspec.Struct, frozen=True, kw_only=True, tag="probe"):
    """What the LoRAs do to the noise prediction at one step of a picture. During training it takes
    its turn at a step boundary; a whole probe is many of these.

    ``rows``: settings to ask, each with one use a LoRA, in the order of ``loras``, whose weights do
    not count. A setting in which a LoRA takes part in other steps has it at 0. ``embeddings``: as
    ``Paint`` has them.
    """

    job: str
    spec: PictureSpec
    step: int  # denoising steps done when it is asked
    base_path: str
    loras: list[LoraFile]
    rows: list[list[LoraUse]]
    base_predicts: Objective | None = None
    embeddings: list[tuple[str, str]] = []


class Gather(msgspec.Struct, frozen=True, kw_only=True, tag="gather"):
    """Watch the plain base paint ``specs``, and write to ``out`` what the LoRAs' modules are given
    (``engine.inputs``)."""

    job: str
    specs: list[PictureSpec]
    base_path: str
    loras: list[str]  # paths
    out: str
    base_predicts: Objective | None = None
    embeddings: list[tuple[str, str]] = []


class Zip(msgspec.Struct, frozen=True, kw_only=True, tag="zip"):
    """Go on for a little with learning merger coefficients (``engine.lessons`` says what each field
    means). During training it takes its turn at a step boundary; a whole lesson is many of these,
    all alike, until one is answered with all of it done."""

    job: str
    base_path: str
    loras: list[LoraFile]
    pictures: list[tuple[int, PictureSpec]]  # (LoRA, picture)
    folder: str
    out: str
    steps: int
    rate: float
    penalty: float
    seed: int
    about: dict[str, str]
    base_predicts: Objective | None = None
    embeddings: list[tuple[str, str]] = []


class Weigh(msgspec.Struct, frozen=True, kw_only=True, tag="weigh"):
    """Paint a picture with one LoRA at its weight, and say how much of the LoRA is in it
    (``engine.weighing``). During training it takes its turn at a step boundary."""

    job: str
    base_path: str
    lora: LoraFile
    spec: PictureSpec
    base_predicts: Objective | None = None
    embeddings: list[tuple[str, str]] = []


class Recognise(msgspec.Struct, frozen=True, kw_only=True, tag="recognise"):
    """Paint a picture with LoRAs, and say how far from it each of some settings is
    (``engine.company``). During training it takes its turn at a step boundary.

    ``painted`` and each of ``rows``: one use a LoRA, in the order of ``loras``, whose weights do
    not count.
    """

    job: str
    spec: PictureSpec
    base_path: str
    loras: list[LoraFile]
    painted: list[LoraUse]
    rows: list[list[LoraUse]]
    base_predicts: Objective | None = None
    embeddings: list[tuple[str, str]] = []


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """Give up the job: within one denoising step, or one batch of captions."""

    job: str


Serving = Paint | Probe | Gather | Measure | Zip | Weigh | Recognise  # what needs a base
Asked = Serving | Describe  # what is asked besides runs
Command = Train | Steer | Asked | Cancel


# ── worker → daemon ─────────────────────────────────────────────────────────────────────────────


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The worker has imported torch and can take commands."""

    pid: int
    torch: str
    device: str  # "cpu" or "cuda:0"
    device_name: str
    device_uuid: str = ""  # NVML's UUID where there is one
    precision: str  # what "auto" means here: fp32, bf16, fp16
    threads: int


class Phase(msgspec.Struct, frozen=True, kw_only=True, tag="phase"):
    """What the run is doing. ``done``/``total`` count pictures while caching, each version for
    one, shapes while compiling, else steps."""

    run: str
    phase: Literal["loading", "caching", "compiling", "training", "sampling", "saving", "paused"]
    done: int = 0
    total: int = 0


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One optimiser step, as ``metrics.csv`` keeps it."""

    step: int  # 1-based: the number of steps done
    loss: float
    learning_rate: float
    grad_norm: float
    time: float  # Unix seconds


class Tick(msgspec.Struct, frozen=True, kw_only=True, tag="tick"):
    """Progress, about 4 times a second: every step since the last tick."""

    run: str
    step: int
    steps: int
    epoch: int  # 1-based
    epochs: int
    points: list[Point]
    speed: float  # steps per second over the last seconds, sampling excluded


class StateSaved(msgspec.Struct, frozen=True, kw_only=True, tag="state_saved"):
    """A resume state newer than any before is published."""

    run: str
    step: int


class NoSpace(msgspec.Struct, frozen=True, kw_only=True, tag="no_space"):
    """The run's disk is full, or nearly: ``needed`` bytes should be free. Answered by "resume" once
    there is what room can be made; without an answer the run tries again by itself."""

    run: str
    needed: int


class Resumed(msgspec.Struct, frozen=True, kw_only=True, tag="resumed"):
    """The run goes on from a resume state. ``identical``: bit-identical to an unbroken run;
    else ``why`` names what differs (build, instruction set, threads, memory format, device)."""

    run: str
    step: int
    identical: bool
    why: str = ""


class CheckpointSaved(msgspec.Struct, frozen=True, kw_only=True, tag="checkpoint_saved"):
    run: str
    step: int
    epoch: int
    path: str  # relative to the run directory
    size: int  # bytes
    final: bool = False
    passed: list[int] = []  # steps whose checkpoints the recipe keeps no longer


class SampleSaved(msgspec.Struct, frozen=True, kw_only=True, tag="sample_saved"):
    run: str
    step: int
    path: str  # relative to the run directory
    prompt: str
    seed: int


class Skipped(msgspec.Struct, frozen=True, kw_only=True, tag="skipped"):
    """A picture could not be used; the run goes on without it."""

    run: str
    path: str
    reason: str


class Notice(msgspec.Struct, frozen=True, kw_only=True, tag="notice"):
    """Something the user should read in the run's log: a failed sample, a fall-back."""

    run: str
    message: str


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """finished: all steps; stopped: by request, LoRA saved; suspended: resume state saved."""

    run: str
    outcome: Literal["finished", "stopped", "suspended"]
    step: int
    loss: float  # mean over the last 100 steps
    lora: str = ""  # relative to the run directory


class RunFailed(msgspec.Struct, frozen=True, kw_only=True, tag="run_failed"):
    """The run cannot go on; the worker is well."""

    run: str
    failure: Failure


class PaintStep(msgspec.Struct, frozen=True, kw_only=True, tag="paint_step"):
    """Denoising steps done, counted over all pictures of the job. ``seen``: a file with what the
    picture looks like on its way, if there is another one. ``before``: what is done first, such as
    loading a base; steps are not counted yet."""

    job: str
    step: int
    steps: int
    seen: str = ""
    before: str = ""


class Painted(msgspec.Struct, frozen=True, kw_only=True, tag="painted"):
    """All pictures of the job are in place; size and ``parameters`` are those of the first.

    ``notes``: what the user should know, such as modules of a LoRA that this base has not.
    """

    job: str
    width: int
    height: int
    parameters: str
    seconds: float
    notes: list[str] = []


class PaintFailed(msgspec.Struct, frozen=True, kw_only=True, tag="paint_failed"):
    job: str
    failure: Failure


class Probed(msgspec.Struct, frozen=True, kw_only=True, tag="probed"):
    """⟨δₖ, δₗ⟩ of a probe's rows. ``notes``: what of a LoRA the base has no place for."""

    job: str
    products: list[list[float]]
    notes: list[str] = []


class Gathered(msgspec.Struct, frozen=True, kw_only=True, tag="gathered"):
    """The measurement is in place. ``left_out``: modules that are not in it."""

    job: str
    modules: int
    left_out: list[str]


class Zipped(msgspec.Struct, frozen=True, kw_only=True, tag="zipped"):
    """So much of a lesson is done: pictures and steps."""

    job: str
    done: int
    total: int
    notes: list[str] = []


class Weighed(msgspec.Struct, frozen=True, kw_only=True, tag="weighed"):
    job: str
    effect: float


class Recognised(msgspec.Struct, frozen=True, kw_only=True, tag="recognised"):
    """The log error of each row. ``notes``: as ``Probed`` has them."""

    job: str
    errors: list[float]
    notes: list[str] = []


class ProbeFailed(msgspec.Struct, frozen=True, kw_only=True, tag="probe_failed"):
    """A probe, a measurement, a lesson or a weight was not made, or a picture not looked at."""

    job: str
    failure: Failure


class Described(msgspec.Struct, frozen=True, kw_only=True, tag="described"):
    """Captions of some of the order's pictures, as (item, caption), and why others have none, as
    (item, reason). ``last``: the order is done. ``notes``: what the user should know."""

    job: str
    captions: list[tuple[str, str]]
    skipped: list[tuple[str, str]]
    last: bool
    notes: list[str] = []


class DescribeFailed(msgspec.Struct, frozen=True, kw_only=True, tag="describe_failed"):
    job: str
    failure: Failure


class Measured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """The answer to one order. The row of a picture that cannot be used is empty, and ``skipped``
    says why, as (path, reason)."""

    job: str
    rows: list[list[float]]
    skipped: list[tuple[str, str]] = []


class MeasureFailed(msgspec.Struct, frozen=True, kw_only=True, tag="measure_failed"):
    job: str
    failure: Failure


class GoesOn(msgspec.Struct, frozen=True, kw_only=True, tag="goes_on"):
    """A job that has nothing to tell yet gets on, step by step: now and then a word of it."""

    job: str


class Memory(msgspec.Struct, frozen=True, kw_only=True, tag="memory"):
    """The worker's own account, each second. Bytes. CPU: allocated = resident set, rest 0."""

    allocated: int
    cached: int  # reserved by torch's allocator but not allocated
    peak: int


Report = (
    Ready
    | Phase
    | Tick
    | StateSaved
    | NoSpace
    | Resumed
    | CheckpointSaved
    | SampleSaved
    | Skipped
    | Notice
    | Finished
    | RunFailed
    | PaintStep
    | Painted
    | PaintFailed
    | Probed
    | Gathered
    | Zipped
    | Weighed
    | Recognised
    | ProbeFailed
    | Described
    | DescribeFailed
    | Measured
    | MeasureFailed
    | GoesOn
    | Memory
)

encoder = msgspec.msgpack.Encoder()
command_decoder = msgspec.msgpack.Decoder(Command)
report_decoder = msgspec.msgpack.Decoder(Report)


def frame(message: Command | Report) -> bytes:
    """A message as it goes into the pipe."""
    body = encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def frame_length(prefix: bytes) -> int:
    """The body's length from its 4-byte prefix. Raises ValueError past MAX_FRAME."""
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_FRAME:
        raise ValueError(f"a pipe frame of {length} bytes is more than {MAX_FRAME}")
    return int(length)


def received(stream: socket.socket) -> bytes:
    """The body of the next frame, waited for. Raises EOFError where the other side has left,
    OSError, and ValueError past MAX_FRAME."""
    return _exactly(stream, frame_length(_exactly(stream, _LENGTH.size)))


def _exactly(stream: socket.socket, length: int) -> bytes:
    body = bytearray()
    while len(body) < length:
        block = stream.recv(length - len(body))
        if not block:
            raise EOFError
        body += block
    return bytes(body)
