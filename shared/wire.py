"""The wire between daemon and clients: every message is a type here, and nothing else travels.

One ROUTER in the daemon, one DEALER per client. A message is ZeroMQ frames:

    [magic + version]  [msgpack header: one Message]  [blob …]

Pictures travel as blobs, never inside msgpack; there is no pickle anywhere. The page
``docs/wire.md`` is generated from this module (``python -m shared.wire_page``).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from shared import company, weighing, zipping
from shared.affinity import Affinity
from shared.buckets import Rules
from shared.conflicts import Conflict
from shared.edits import AnyEdit
from shared.errors import Code, Failure, LoraError
from shared.foretelling import Spent
from shared.framing import Box, Framing, Size
from shared.gallery import Order, Shown
from shared.health import Health
from shared.lora_cards import LoraCard
from shared.lora_orders import Method
from shared.mixes import MixSpec
from shared.pictures import LoraUse, PictureSpec
from shared.probes import Probe
from shared.recipe import Text
from shared.weighing import Advised
from shared.which import Which

PROTOCOL = (1, 1)  # oldest and newest version this side speaks
MAGIC = b"LORA\x01"
MAX_HEADER = 8 * 1024 * 1024  # bytes; a larger header is refused before it is sent
MAX_BLOBS = 16
MAX_PREVIEW = 2048  # pixels of a preview's sides
MAX_BLOB = 32 * 1024 * 1024
LIVENESS = 10.0  # seconds without any message after which a side takes the other for gone
PING_EVERY = 3.0  # seconds of silence after which a client pings

R = TypeVar("R")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A value that travels inside messages."""


# ── what there is: the state every client sees ──────────────────────────────────────────────────

CaptionState = Literal["unreviewed", "accepted", "edited", "rejected", "flagged"]
CAPTION_STATES: tuple[CaptionState, ...] = get_args(CaptionState)
Source = Literal["file", "person", "captioner"]


class Caption(Record, frozen=True, kw_only=True):
    """A picture's caption at one revision."""

    text: str
    state: CaptionState
    rev: int  # 1 at import, one more at each change
    source: Source
    by: str  # the client's name, "import", or "file": its file was changed outside
    at: float  # Unix seconds


class Item(Record, frozen=True, kw_only=True):
    """One picture of a dataset."""

    id: str
    dataset: str
    name: str  # path relative to the dataset's folder
    content: str  # SHA-256 of the file, hex; empty if it could not be read
    width: int  # pixels as shown (EXIF orientation applied); 0 if unreadable
    height: int
    size: int  # bytes
    problem: str  # why it cannot be trained on; empty if it can
    caption: Caption
    framing: Framing = Framing()  # how it is turned and cropped, as data


class Dataset(Record, frozen=True, kw_only=True):
    """A folder of pictures. ``counts`` has every caption state."""

    id: str
    name: str
    path: str  # absolute folder on the daemon's machine
    items: int
    counts: dict[CaptionState, int]
    empty: int  # pictures whose caption is empty
    problems: int  # pictures that cannot be used
    created: float


RunState = Literal[
    "queued", "starting", "training", "paused", "finished", "stopped", "failed", "interrupted"
]
FINAL_STATES: tuple[RunState, ...] = ("finished", "stopped", "failed")


class Run(Record, frozen=True, kw_only=True):
    """A training run, from the queue to its LoRA."""

    id: str  # "r0001"
    name: str
    dataset: str  # the dataset's name when queued
    base: str
    state: RunState
    phase: str  # loading, caching, training, sampling, saving, paused; or empty
    done: int  # of the phase: pictures while caching, each version for one; else steps
    total: int
    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float | None  # mean of the last 100 steps
    speed: float | None  # steps per second
    pictures: int  # that it trains on
    skipped: int
    restarts: int  # of the worker in a row without a newer resume state
    message: str  # why it failed, or what the user should know
    lora: str  # name in the library once there is one
    by: str
    created: float
    started: float | None
    finished: float | None
    size: int  # bytes of the run directory
    rev: int
    place: int = 0  # in the queue: the smaller goes first
    after: list[str] = []  # runs that must have left their LoRA before it begins
    group: str = ""  # the sweep that it is one of
    settings: list[
        str
    ] = []  # what sets it apart in its group, or from its parent: "network.rank=4"
    parent: str = ""  # the run that it was forked from
    gpus: list[str] = []  # that it is on, as the daemon names them; none where it has no choice
    spent: Spent | None = None  # once it has finished
    took: float = 0.0  # seconds at work, without pauses and waiting


class Lora(Record, frozen=True, kw_only=True):
    """A LoRA file in the library."""

    name: str
    path: str
    size: int
    rank: int
    base: str
    trigger: str
    run: str  # the run that made it; empty if brought from elsewhere
    step: int
    sha256: str  # empty of a file in an indexed folder: it has not been read
    created: float
    folder: str = ""  # the indexed folder that it was found in
    modified: int = 0  # of the file when its header was read, in ns
    problem: str = ""  # why it cannot be used; empty if it can
    shapes: str = ""  # digest of its tensors' formats and shapes
    tensors: str = ""  # digest of the tensors themselves; empty: not yet read
    advised: Advised | None = None  # the weight to begin with; None: not measured


Objective = Literal["epsilon", "v_prediction", "flow"]
FAMILIES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "flux": "FLUX.1 dev",
    "flux_schnell": "FLUX.1 schnell",
}


class BaseModel(Record, frozen=True, kw_only=True):
    """A base the engine can load."""

    name: str
    path: str  # a diffusers folder or one file, on the daemon's machine
    family: str  # "sd1", "sd2", "sdxl", "flux" or "flux_schnell"
    resolution: int  # pixels
    size: int
    problem: str  # what is missing; empty if usable
    layout: Literal["folder", "file"] = "folder"
    objective: Objective = "epsilon"  # what it predicts
    told: bool = False  # whether somebody said what it predicts
    guessed: str = ""  # why what it predicts is only a guess; empty if it is known
    zero_snr: bool = False  # zero terminal SNR
    precision: list[str] = []  # number formats of its weights, such as F16
    carried: dict[str, int] = {}  # what is in the file and not used: tensors of each kind
    hub: str = ""  # where it came from: "owner/name@commit" of the Hub, or an address
    passed_over: list[str] = []  # other files there that would have done, with their addresses


class Picture(Record, frozen=True, kw_only=True):
    """A generated picture or a run's sample."""

    id: str
    path: str
    run: str  # empty if made by generate
    step: int
    prompt: str
    seed: int
    width: int
    height: int
    parameters: str  # the PNG's text
    created: float
    notes: list[str] = []  # what of its LoRAs was left out, in sentences


JobKind = Literal[
    "import", "export", "generate", "grid", "download", "write", "caption", "measure", "probe",
    "check", "merge",
]  # fmt: skip


class Job(Record, frozen=True, kw_only=True):
    """Something long the daemon does besides runs: an import, an export, a picture being made,
    captions being made or written to their files, LoRAs being tried on a base or merged, a health
    check."""

    id: str
    kind: JobKind
    title: str
    state: Literal["running", "paused", "done", "failed", "cancelled"]
    done: int
    total: int
    message: str
    dataset: str = ""  # that captions are being made for


class Looking(Record, frozen=True, kw_only=True):
    """A picture that somebody has before him."""

    dataset: str
    item: str
    name: str  # of the picture


class ClientInfo(Record, frozen=True, kw_only=True):
    """Who is attached and told of what changes, and from where."""

    session: str
    name: str
    host: str
    terminal: str
    since: float
    looking: Looking | None = None  # at which picture


class Worker(Record, frozen=True, kw_only=True):
    """An engine worker, or the place of one. ``gpu``: the name of the GPU it has to itself: its
    number in nvidia-smi, or a MIG device's UUID; empty where the daemon has one worker only."""

    state: Literal[
        "absent", "starting", "idle", "training", "painting", "captioning", "measuring", "probing",
        "failed",
    ]  # fmt: skip
    pid: int = 0
    device: str = ""
    device_name: str = ""
    precision: str = ""
    torch: str = ""
    restarts: int = 0
    message: str = ""
    gpu: str = ""
    run: str = ""  # that it trains, or that one of its processes is for


class SavedFilter(Record, frozen=True, kw_only=True):
    """A filter that somebody gave a name, for everybody and every dataset."""

    name: str
    filter: str  # as shared.filters reads it
    by: str
    at: float  # Unix seconds


class Mix(Record, frozen=True, kw_only=True):
    """LoRAs mixed. The one without a name is live: every client sees it and may change it."""

    name: str
    spec: MixSpec
    other: MixSpec | None = None  # of the live one: what a flip brings back
    side: Literal["A", "B"] = "A"  # of the live one: which of the two this is
    rev: int  # one more at each change
    by: str
    at: float  # Unix seconds


class Tried(Record, frozen=True, kw_only=True):
    """A mix that was painted in full, and can be returned to."""

    id: str
    spec: MixSpec
    width: int  # pixels of the picture
    height: int
    notes: list[str]  # such as what of a LoRA the base has no place for
    at: float  # Unix seconds


class State(Record, frozen=True, kw_only=True):
    """All the daemon holds, except pictures and captions of the datasets (ask for those)."""

    datasets: list[Dataset] = []
    runs: list[Run] = []
    loras: list[Lora] = []
    bases: list[BaseModel] = []
    pictures: list[Picture] = []
    filters: list[SavedFilter] = []
    mixes: list[Mix] = []
    tried: list[Tried] = []  # oldest first


# ── journalled events: a state change each, numbered, replayable ────────────────────────────────


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """A change of state. Applying all events after a snapshot gives the present state."""


class DatasetChanged(Event, frozen=True, kw_only=True, tag="dataset"):
    dataset: Dataset


class DatasetRemoved(Event, frozen=True, kw_only=True, tag="dataset.removed"):
    dataset: str


class CaptionChanged(Event, frozen=True, kw_only=True, tag="caption"):
    dataset: str
    item: str
    caption: Caption


class CaptionsChanged(Event, frozen=True, kw_only=True, tag="captions"):
    """Many captions of a dataset at once, how pictures are turned and cropped, or pictures whose
    files were replaced: who shows some of them asks for those again."""

    dataset: str
    changed: int
    what: str  # "add tag “solo”"


class RunChanged(Event, frozen=True, kw_only=True, tag="run"):
    run: Run


class RunRemoved(Event, frozen=True, kw_only=True, tag="run.removed"):
    run: str


class CheckpointJudged(Event, frozen=True, kw_only=True, tag="run.judged"):
    """There is something else to say about which of a run's checkpoints to take: ask for it."""

    run: str


class LoraChanged(Event, frozen=True, kw_only=True, tag="lora"):
    lora: Lora


class LoraRemoved(Event, frozen=True, kw_only=True, tag="lora.removed"):
    lora: str


class BaseChanged(Event, frozen=True, kw_only=True, tag="base"):
    base: BaseModel


class BaseRemoved(Event, frozen=True, kw_only=True, tag="base.removed"):
    base: str


class PictureAdded(Event, frozen=True, kw_only=True, tag="picture"):
    picture: Picture


class PictureRemoved(Event, frozen=True, kw_only=True, tag="picture.removed"):
    picture: str


class FilterSaved(Event, frozen=True, kw_only=True, tag="filter"):
    saved: SavedFilter


class FilterRemoved(Event, frozen=True, kw_only=True, tag="filter.removed"):
    name: str


class MixChanged(Event, frozen=True, kw_only=True, tag="mix"):
    mix: Mix


class MixRemoved(Event, frozen=True, kw_only=True, tag="mix.removed"):
    name: str


class MixTried(Event, frozen=True, kw_only=True, tag="tried"):
    tried: Tried


class TriedForgotten(Event, frozen=True, kw_only=True, tag="tried.forgotten"):
    tried: str


class PictureRated(Event, frozen=True, kw_only=True, tag="picture.rated"):
    picture: str
    rating: int  # 0: no longer rated


class GalleryChanged(Event, frozen=True, kw_only=True, tag="gallery"):
    """Pictures of other tools were imported, or forgotten: who shows some asks for them again."""

    imported: int  # how many there are


AnyEvent = (
    DatasetChanged
    | DatasetRemoved
    | CaptionChanged
    | CaptionsChanged
    | RunChanged
    | RunRemoved
    | CheckpointJudged
    | LoraChanged
    | LoraRemoved
    | BaseChanged
    | BaseRemoved
    | PictureAdded
    | PictureRemoved
    | FilterSaved
    | FilterRemoved
    | MixChanged
    | MixRemoved
    | MixTried
    | TriedForgotten
    | PictureRated
    | GalleryChanged
)


# ── live values: lossy, the latest counts ───────────────────────────────────────────────────────


class LivePoint(msgspec.Struct, frozen=True, array_like=True):
    """A step of a run as charts need it. ``grad_norm`` and ``loss`` may be decimated points."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    time: float  # Unix seconds


class Live(msgspec.Struct, frozen=True, kw_only=True, tag_field="live"):
    """A value that is conflated per client: a newer one replaces an unsent older one."""


class RunProgress(Live, frozen=True, kw_only=True, tag="run"):
    """Where a run is. ``points``: the steps since the last one sent to this client, at most 512,
    decimated to each bucket's minimum and maximum loss when there were more."""

    run: str
    phase: str
    done: int
    total: int
    step: int
    epoch: int
    speed: float
    eta: float | None  # seconds
    loss: float | None
    points: list[LivePoint]


class DeviceUse(Live, frozen=True, kw_only=True, tag="device"):
    """One device, each second. Bytes; None where the device does not tell.

    ``kind`` "cpu": total/used are the machine's RAM and ``allocated`` the worker's resident set.
    """

    device: str
    kind: Literal["cuda", "cpu"]
    name: str
    total: int
    used: int
    allocated: int
    cached: int
    context: int
    others: int  # other processes
    utilisation: float | None  # per cent
    power: float | None  # watts
    temperature: float | None  # °C
    at: float
    gpu: str = ""  # its name, where the daemon has several; see Worker


class Attached(Live, frozen=True, kw_only=True, tag="attached"):
    clients: list[ClientInfo]


class WorkerChanged(Live, frozen=True, kw_only=True, tag="worker"):
    worker: Worker


class JobChanged(Live, frozen=True, kw_only=True, tag="job"):
    job: Job


class FolderSeen(Live, frozen=True, kw_only=True, tag="folder"):
    """What somebody else has done in a dataset's folder."""

    dataset: str
    said: list[str] = []  # sentences that hold until something is done: new pictures, missing ones
    news: str = ""  # what captions have just become of it; empty: nothing


AnyLive = RunProgress | DeviceUse | Attached | WorkerChanged | JobChanged | FolderSeen


# ── requests: what a client asks, each with the type of its answer ──────────────────────────────


class Request(
    msgspec.Struct,
    Generic[R],
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="op",
):
    """A question or a command; ``Request[R]`` is answered by an ``R``.

    Fields at their default do not travel: an older daemon answers whatever asks nothing new of it.
    ``changes``: it has an effect, so it is remembered by its call's key and safe to retry.
    """

    changes: ClassVar[bool] = False


class Done(Record, frozen=True, kw_only=True):
    """The answer of commands that have nothing to tell."""


class Status(Record, frozen=True, kw_only=True):
    """The daemon itself."""

    pid: int
    endpoint: str
    home: str
    version: str
    versions: dict[str, str]  # python, protocol, schema, pyzmq; torch… once a worker ran
    incarnation: str
    head_seq: int
    started: float
    clients: list[ClientInfo]
    worker: Worker  # the first of ``workers``
    devices: list[DeviceUse]
    jobs: list[Job]
    runs: list[Run]  # not yet final, in queue order
    warnings: list[str]  # about the workspace: network or ephemeral disk, low space
    workers: list[Worker] = []  # one for each GPU that the daemon may use, at least one


class GetStatus(Request[Status], frozen=True, kw_only=True, tag="status"):
    pass


class Stop(Request[Done], frozen=True, kw_only=True, tag="daemon.stop"):
    """End the daemon: runs are suspended at the step boundary (now: at once)."""

    now: bool = False


class LogLines(Record, frozen=True, kw_only=True):
    lines: list[str]


class GetLog(Request[LogLines], frozen=True, kw_only=True, tag="log"):
    """The daemon's log, or a run's."""

    run: str = ""
    lines: int = 200


class GetState(Request[State], frozen=True, kw_only=True, tag="state"):
    pass


class Look(Request[Done], frozen=True, kw_only=True, tag="look"):
    """Say which picture this client has before it, or that it has none. Every client is told."""

    at: Looking | None = None


class Imported(Record, frozen=True, kw_only=True):
    dataset: Dataset
    added: int
    updated: int
    problems: list[tuple[str, str]]  # (path, reason), the first 200
    warnings: list[str]


class FromHub(Record, frozen=True, kw_only=True):
    """A model or dataset on the Hugging Face Hub; it is fetched to the Hub library's own cache."""

    id: str  # owner/name
    revision: str = ""  # a branch, tag or commit; empty: main
    file: str = ""  # of a repository of single files; empty: its only one
    kind: Literal["model", "dataset", "captioner"] = "model"
    token: str = ""  # empty: what the daemon's machine is logged in with. Never stored
    mirror: str = ""  # address of another Hub; empty: HF_ENDPOINT, or the Hub itself
    offline: bool = False  # take what is in the cache, ask nobody


class FromAddress(Record, frozen=True, kw_only=True):
    """A file at an address, or the one that suits on a page of Civitai; it is fetched to the
    workspace's folder ``models``."""

    url: str  # https; http to this machine alone
    token: str = ""  # of Civitai; empty: the daemon's CIVITAI_API_TOKEN. Never stored
    mirror: str = ""  # another address of Civitai; empty: CIVITAI_ENDPOINT, or Civitai itself
    offline: bool = False  # take what was fetched before, ask nobody


class ImportDataset(Request[Imported], frozen=True, kw_only=True, tag="dataset.import"):
    """Read pictures on the daemon's machine; again: only what is new or changed.

    A folder is taken by reference. An archive (zip, tar), a parquet or arrow table, and with
    ``copy`` a folder, is unpacked into the workspace first. Captions come from side-cars
    (``.txt``, ``.caption``), else from tables in the folder (``metadata.jsonl``, ``metadata.csv``,
    kohya's ``meta_*.json``). Reports progress. Goes on if the client leaves.
    """

    changes: ClassVar[bool] = True
    path: str = ""
    hub: FromHub | None = None  # instead of a path: a dataset of pictures, always unpacked
    name: str = ""  # empty: the folder's or file's name
    captions: str = ""  # path of one more table of captions, taken before those in the folder
    text_column: str = ""  # of a table; empty: text, caption or prompt
    image_column: str = ""  # of parquet and arrow; empty: image, or the only one
    copy: bool = False


ExportFormat = Literal["folder", "imagefolder", "csv", "kohya", "zip", "tar", "parquet"]


class Exported(Record, frozen=True, kw_only=True):
    path: str
    format: ExportFormat
    pictures: int
    captions: int  # that are not empty
    warnings: list[str]  # one for each picture that was left out, the first 200
    framed: int = 0  # of the pictures, those that are turned or cropped here
    renamed: list[tuple[str, str]] = []  # whose name was taken, (here, there), the first 200


class ExportDataset(Request[Exported], frozen=True, kw_only=True, tag="dataset.export"):
    """Write the pictures that are neither rejected nor unusable, with their captions, to a new
    folder or file on the daemon's machine, without private metadata. Reports progress.
    """

    dataset: str
    path: str  # nothing may be there yet
    format: ExportFormat | None = None  # None: as the suffix says, else a folder with .txt files
    filter: str = ""  # as shared.filters reads it
    apply_framing: bool = False  # write pictures as they are turned and cropped, else as files are


class RemoveDataset(Request[Done], frozen=True, kw_only=True, tag="dataset.remove"):
    """Forget a dataset. The pictures and their side-cars stay where they are."""

    changes: ClassVar[bool] = True
    dataset: str


class HealthFound(Record, frozen=True, kw_only=True):
    """What is known of a dataset's health now."""

    health: Health
    problems: list[tuple[str, str]] = []  # pictures that could not be measured, why; the first 20


class GetHealth(Request[HealthFound], frozen=True, kw_only=True, tag="dataset.health"):
    """Counts and advice from what was measured so far and from the captions as they are now."""

    dataset: str


class CheckHealth(Request[HealthFound], frozen=True, kw_only=True, tag="dataset.check"):
    """Measure the pictures that are not measured yet, look for near duplicates and for caption
    files without a picture, then answer as GetHealth.

    Reports progress. Goes on if the client leaves; cancelled or killed, what was measured stays.
    """

    changes: ClassVar[bool] = True
    dataset: str
    resolution: int = 0  # pixels it is to be trained at; 0: as said before, else 512
    trigger: str | None = None  # the word every caption is to have; None: as said before
    measure: bool = True  # False: only keep these two


SortBy = Literal["path", "name", "size", "ratio", "tokens", "state", "changed"]
SORTS: tuple[SortBy, ...] = get_args(SortBy)


class Sort(Record, frozen=True, kw_only=True):
    """An order of pictures: by path below the dataset's folder, the file's own name, the shorter
    side, width to height, tokens of the caption, its state, or when text or state last changed.
    What is alike is in order of the paths; what has no such number comes last."""

    by: SortBy = "path"
    descending: bool = False


class Items(Record, frozen=True, kw_only=True):
    items: list[Item]
    total: int  # that match, beyond this page
    view: str = ""  # with a filter or an order: the list that this is a page of
    place: int = -1  # in it, of the picture ``at``; -1: it is not there


class ListItems(Request[Items], frozen=True, kw_only=True, tag="dataset.items"):
    """A page of a dataset's pictures in order of their names, or as ``sort`` says; with ``dup:`` in
    the filter and without a sort, each group of duplicates side by side.

    With a ``filter`` or ``sort`` the answer names the ``view`` it is a page of. Asked with that
    view, the next pages are of the very same list, whatever has changed meanwhile: nothing is
    skipped or repeated.
    A view that the daemon has forgotten is made anew, under another name. BAD_REQUEST with
    ``data.start`` and ``data.end``: where in the filter the mistake is.
    """

    dataset: str
    offset: int = 0
    limit: int = 200
    states: list[CaptionState] = []  # none: all
    filter: str = ""  # as shared.filters reads it
    view: str = ""  # that an earlier answer to the same question named
    sort: Sort | None = None
    at: str = ""  # a picture whose place in a view is wanted


class StateParts(Record, frozen=True, kw_only=True):
    """A list in equal parts: of each, its captions by state, in the order of the states."""

    parts: list[list[int]]
    view: str


class CountStates(Request[StateParts], frozen=True, kw_only=True, tag="dataset.states"):
    """The states of a list's captions as they are now, for a strip of so many ``parts``. The list
    is that which ListItems gives for the same question."""

    dataset: str
    filter: str = ""
    view: str = ""
    sort: Sort | None = None
    parts: int = 100


class FoundPlace(Record, frozen=True, kw_only=True):
    place: int | None  # from 0; None: no picture passes
    left: int  # pictures that pass


class FindPlace(Request[FoundPlace], frozen=True, kw_only=True, tag="dataset.find"):
    """The next picture after a place that passes ``wanted``, from the top again at the end.

    Places are those of the list that ListItems gives for the same ``filter``, ``sort`` and
    ``view``. BAD_REQUEST as there.
    """

    dataset: str
    wanted: str  # as shared.filters reads it
    after: int = -1
    filter: str = ""
    sort: Sort | None = None
    view: str = ""


class SaveFilter(Request[SavedFilter], frozen=True, kw_only=True, tag="filter.save"):
    """Give a filter a name, or a name another filter."""

    changes: ClassVar[bool] = True
    name: str
    filter: str


class RemoveFilter(Request[Done], frozen=True, kw_only=True, tag="filter.remove"):
    changes: ClassVar[bool] = True
    name: str


class GetItem(Request[Item], frozen=True, kw_only=True, tag="dataset.item"):
    dataset: str
    item: str


class Thumbnail(Record, frozen=True, kw_only=True):
    """One blob: a JPEG or PNG of at most the asked size."""

    width: int
    height: int
    media_type: str


class GetThumbnail(Request[Thumbnail], frozen=True, kw_only=True, tag="dataset.thumbnail"):
    """A picture scaled to fit ``width`` × ``height`` pixels, from a cache by content."""

    dataset: str
    item: str
    width: int = 256
    height: int = 256


class Framed(Record, frozen=True, kw_only=True):
    what: str  # "rotation of 003.png"
    changed: int  # pictures


class FramePictures(Request[Framed], frozen=True, kw_only=True, tag="dataset.frame"):
    """Turn and crop pictures, as data: their files stay as they are. One undo takes it back.

    Which: as in PreviewEdit. ``rotate``: by so many degrees clockwise, with what was cropped;
    ``crop``: then, of the turned picture, left, top, right and bottom in pixels; ``whole``: without
    a crop. Pictures that cannot be read are left out. CONFLICT with ``data.current`` (a Framing) if
    ``seen`` is given and is not how a picture is framed now.
    """

    changes: ClassVar[bool] = True
    dataset: str
    items: list[str] = []
    filter: str = ""
    view: str = ""
    places: list[tuple[int, int]] = []
    rotate: int = 0
    crop: Box | None = None
    whole: bool = False
    seen: Framing | None = None


class Bucket(Record, frozen=True, kw_only=True):
    """Pictures that are trained at one size, in pixels."""

    width: int
    height: int
    pictures: int
    samples: int  # in an epoch: pictures × repeats
    lost: float  # share of a picture that is cropped away, the mean, 0 to 1
    most_lost: float
    enlarged: int  # pictures that are smaller


class Buckets(Record, frozen=True, kw_only=True):
    """``rules`` is None where the recipe makes a square of each picture."""

    resolution: int
    rules: Rules | None
    buckets: list[Bucket]
    pictures: int
    batch_size: int
    steps_per_epoch: int


class ListBuckets(Request[Buckets], frozen=True, kw_only=True, tag="dataset.buckets"):
    """How a dataset's usable pictures would be trained: by a ``recipe`` (TOML text); without one in
    buckets, at ``resolution``, or as the dataset was checked for, or 512."""

    dataset: str
    recipe: str = ""
    resolution: int = 0


class BucketPreview(Record, frozen=True, kw_only=True):
    """One blob: the turned picture, dark where training does not see it. Sizes and boxes (left,
    top, right, bottom) are in pixels of the turned picture."""

    width: int  # of the blob
    height: int
    media_type: str
    turned: Size  # of the whole picture
    crop: Box  # by hand; the whole picture if there is none
    bucket: Size  # that what is left is resized to
    shown: Box  # what training sees
    lost: float  # share of what the hand left that the bucket crops away
    enlarged: float  # times; below 1 it is made smaller


class PreviewBucket(Request[BucketPreview], frozen=True, kw_only=True, tag="dataset.bucket"):
    """What training sees of a picture, drawn over it within ``width`` × ``height`` pixels. The
    bucket is chosen as in ListBuckets. ``framing``: another than the picture's own, to try it."""

    dataset: str
    item: str
    framing: Framing | None = None
    recipe: str = ""
    resolution: int = 0
    width: int = 512
    height: int = 512


class ChangeCaption(Request[Item], frozen=True, kw_only=True, tag="caption.change"):
    """Set text and/or state. CONFLICT with ``data.current`` (a Caption) if ``if_rev`` is not the
    present revision. Setting a text makes the state "edited" unless one is given."""

    changes: ClassVar[bool] = True
    dataset: str
    item: str
    if_rev: int
    text: str | None = None
    state: CaptionState | None = None


class EditPreview(Record, frozen=True, kw_only=True):
    """What an edit of many captions would do. Nothing is changed yet."""

    preview: str  # its name, for ListDifferences and ApplyEdit
    what: str  # "add tag “solo”"
    changed: int
    unchanged: int
    too_long: int  # captions that would become longer than a caption may be: they stay


class PreviewEdit(Request[EditPreview], frozen=True, kw_only=True, tag="caption.edit"):
    """Work out ``edits``, one after the other, on many captions, and a ``state`` for them.

    Which: ``items`` by id or name, or ``places`` in a ``view``; else what passes ``filter`` (the
    pictures in its ``view``, if ListItems has named one), else the whole dataset. NOT_FOUND for
    places in a view that is forgotten. Edits leave states as they are. Reports
    progress; the last few previews are kept. BAD_REQUEST for an edit that makes no sense.
    """

    dataset: str
    edits: list[AnyEdit] = []
    state: CaptionState | None = None
    filter: str = ""
    view: str = ""
    items: list[str] = []
    places: list[tuple[int, int]] = []  # first and last of each stretch


class Difference(Record, frozen=True, kw_only=True):
    """One caption that an edit would change."""

    item: str
    name: str
    rev: int  # that the edit was worked out on
    text: str
    state: CaptionState
    new_text: str
    new_state: CaptionState
    current: Caption | None = None  # if it has changed since: then it will be left alone


class Differences(Record, frozen=True, kw_only=True):
    differences: list[Difference]
    total: int
    conflicts: int  # of all: captions that have changed since the preview


class ListDifferences(Request[Differences], frozen=True, kw_only=True, tag="caption.edit.items"):
    """A page of what an edit would change, in order of the pictures' names. NOT_FOUND for a preview
    that the daemon has forgotten."""

    preview: str
    offset: int = 0
    limit: int = 200


class Kept(Record, frozen=True, kw_only=True):
    """A caption that was left as it is, because somebody has changed it meanwhile."""

    item: str
    name: str
    current: Caption
    text: str  # what it would have become
    state: CaptionState


class Edited(Record, frozen=True, kw_only=True):
    what: str
    changed: int
    conflicts: int  # captions that changed after the preview, and pictures gone since: left alone
    kept: list[Kept]  # the first 100 of them


class ApplyEdit(Request[Edited], frozen=True, kw_only=True, tag="caption.edit.apply"):
    """Make the changes of a preview: all in one, or none. One undo takes them back.

    Captions that have changed since the preview are left alone and told. Files follow behind.
    """

    changes: ClassVar[bool] = True
    preview: str


class Captioned(Record, frozen=True, kw_only=True):
    """What a captioner did to a dataset."""

    dataset: Dataset
    written: int  # captions that were empty and are the captioner's now
    beside: int = 0  # candidates it wrote beside captions that stay as they are
    kept: int  # pictures that had a caption, or got one from somebody meanwhile: left as they are
    problems: list[tuple[str, str]]  # (picture, why it has no caption), the first 200
    warnings: list[str]


TagCategory = Literal["general", "character", "rating"]


class CaptionPictures(Request[Captioned], frozen=True, kw_only=True, tag="caption.write"):
    """Let a captioner fill empty captions; a caption that is there is never touched, nor is a
    rejected picture. What it writes is a candidate: unreviewed, its source "captioner", until a
    person accepts it. With ``beside`` it says what it sees in captioned pictures as well:
    GetCandidates has it then, while the captions stay.

    A tagger says the tags that are at least as likely as ``threshold``: 0.35 where nothing is said,
    of characters 0.85. What a captioner cannot be asked is refused with BAD_REQUEST.

    Reports progress. Goes on if the client leaves; asked again, it goes on where it was. Beside a
    training run it takes its turn between two steps.
    """

    changes: ClassVar[bool] = True
    dataset: str
    model: str = "starter"  # or another name, a Hub id, a folder on the daemon's machine
    accept: bool = False  # what it writes is accepted at once
    filter: str = ""  # only these pictures, as shared.filters reads it
    beside: bool = False  # write candidates for pictures that have a caption, too
    prompt: str = ""  # what to ask; {trigger} {tags} {caption} are the picture's. Empty: its own
    max_tokens: Annotated[int, Meta(ge=0, le=2048)] = 0  # of a caption. 0: its own
    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None  # of a tagger; null: its own
    categories: list[TagCategory] = []  # of a tagger, in this order; none: character, general
    blacklist: list[str] = []  # tags that a tagger never says


class SteerCaptioning(Request[Done], frozen=True, kw_only=True, tag="caption.steer"):
    """pause, resume or cancel the captioning of a dataset that is under way, whoever asked for it.

    It pauses after the pictures that the captioner has before it, 16 at most, and leaves the
    device to others meanwhile. Cancelled, what it has written stays. WRONG_STATE if none is.
    """

    changes: ClassVar[bool] = True
    dataset: str
    action: Literal["pause", "resume", "cancel"]


class Candidate(Record, frozen=True, kw_only=True):
    """A text that a picture's caption could be."""

    text: str
    model: str  # the captioner that wrote it; empty: the caption has been this before
    source: Source
    by: str  # who asked the captioner, or wrote the text
    at: float  # Unix seconds


class Candidates(Record, frozen=True, kw_only=True):
    item: Item
    candidates: list[Candidate]  # captioners' first, then what the caption has been, latest first


class GetCandidates(Request[Candidates], frozen=True, kw_only=True, tag="caption.candidates"):
    """What a picture's caption could be: what captioners say of it and what it has been before,
    each text once, the present one left out."""

    dataset: str
    item: str


class TagCount(Record, frozen=True, kw_only=True):
    tag: str  # as it is spelt most often
    count: int  # captions that have it


class Tags(Record, frozen=True, kw_only=True):
    tags: list[TagCount]
    total: int  # different tags in the dataset, alike or not


class GetTags(Request[Tags], frozen=True, kw_only=True, tag="caption.tags"):
    """A dataset's tags, those that most captions have first.

    With ``like``: those that begin so, then those of which another word does; in either case, an
    underscore as good as a space.
    """

    dataset: str
    like: str = ""
    limit: int = 50  # at most 100 000


class Undone(Record, frozen=True, kw_only=True):
    item: Item  # the caption, of many the first
    what: str  # e.g. "edit of 003.png"
    changed: int = 1  # captions
    conflicts: int = 0  # that others have changed since: left alone
    kept: list[Kept] = []  # the first 100 of them


class UndoCaption(Request[Undone], frozen=True, kw_only=True, tag="caption.undo"):
    """Take back this user's last change in the dataset that is not yet taken back, an edit of many
    captions as a whole. Captions that somebody else has changed since are left alone; CONFLICT with
    ``data.current`` and ``data.wanted`` (Captions) if that is all there were. ``redo``: the other
    way."""

    changes: ClassVar[bool] = True
    dataset: str
    redo: bool = False


class StartRun(Request[Run], frozen=True, kw_only=True, tag="run.start"):
    """Freeze pictures and captions now and queue the run. ``recipe`` is TOML text.

    ``after``: runs that must have left their LoRA first. ``held``: queued, but paused.
    """

    changes: ClassVar[bool] = True
    recipe: str
    name: str = ""
    after: list[str] = []
    held: bool = False


class RunGroup(Record, frozen=True, kw_only=True):
    group: str
    runs: list[Run]  # in the order of the queue


class CheckRecipes(Request[Done], frozen=True, kw_only=True, tag="recipe.check"):
    """Whether their bases can follow these recipes, TOML texts, and what they begin from is there.
    Answers with the first that is wrong, as queueing would; pictures are looked at only then.

    ``later``: they are to wait for runs, which may write what they begin from.
    """

    recipes: list[str]
    later: bool = False


class StartSweep(Request[RunGroup], frozen=True, kw_only=True, tag="run.sweep"):
    """Queue one run for each combination of values, as one named group.

    ``sweep``: ``network.rank=4,8,16``, several of them multiply, 64 runs at most. Every recipe is
    checked and frozen before the first is queued: all of them are, or none. ``after`` and ``held``
    as StartRun has them.
    """

    changes: ClassVar[bool] = True
    recipe: str
    sweep: list[str]
    name: str = ""
    after: list[str] = []
    held: bool = False


class ArrangeRun(Request[Run], frozen=True, kw_only=True, tag="run.arrange"):
    """Move a run that waits within the queue, or say what it waits for (None: as it was).
    WRONG_STATE once it has begun, or where runs would wait for one another.

    ``before``: a waiting run that this one is to stand right before; said twice, or by two clients
    at once, it comes to the same.
    """

    changes: ClassVar[bool] = True
    run: str
    move: Literal["", "up", "down", "first", "last"] = ""
    before: str = ""
    after: list[str] | None = None


class Continued(Record, frozen=True, kw_only=True):
    run: Run
    told: str  # what goes on from where it was, and what begins anew


class ExtendRun(Request[Continued], frozen=True, kw_only=True, tag="run.extend"):
    """Let a finished or stopped run take so many more steps. WRONG_STATE where its last state is
    gone."""

    changes: ClassVar[bool] = True
    run: str
    steps: int


class ForkRun(Request[Continued], frozen=True, kw_only=True, tag="run.fork"):
    """Queue a new run that begins from one at ``step`` (-1: the latest that the settings can go on
    from), with other ``settings``, such as ``optimizer.learning_rate=5e-5``.

    With a resume state of that step, and settings that leave its tensors as they are, everything
    goes on from there; else it begins anew from the LoRA that was kept of that step. NOT_FOUND with
    ``data.steps`` where there is neither.
    """

    changes: ClassVar[bool] = True
    run: str
    step: int = -1
    settings: list[str] = []
    name: str = ""


class SteerRun(Request[Run], frozen=True, kw_only=True, tag="run.steer"):
    """pause, resume, stop (and save), sample now, save now. ``resume`` also takes up a failed or
    interrupted run."""

    changes: ClassVar[bool] = True
    run: str
    action: Literal["pause", "resume", "stop", "sample", "save"]


class RemoveRun(Request[Done], frozen=True, kw_only=True, tag="run.remove"):
    """Delete a finished, stopped, failed or queued run and its directory (its LoRAs as well)."""

    changes: ClassVar[bool] = True
    run: str


class Checkpoint(Record, frozen=True, kw_only=True):
    step: int
    epoch: int
    path: str  # absolute
    size: int
    final: bool


class RunDetail(Record, frozen=True, kw_only=True):
    run: Run
    recipe: str  # TOML
    directory: str
    samples: list[Picture]
    checkpoints: list[Checkpoint]
    skipped: list[tuple[str, str]]
    warnings: list[str]


class GetRun(Request[RunDetail], frozen=True, kw_only=True, tag="run.detail"):
    run: str


class Series(Record, frozen=True, kw_only=True):
    points: list[LivePoint]


class GetSeries(Request[Series], frozen=True, kw_only=True, tag="run.series"):
    """The run's loss series from ``after`` on, decimated to at most ``points`` (min and max of
    each bucket kept)."""

    run: str
    after: int = 0
    points: int = 2000


class WhichCheckpoint(Record, frozen=True, kw_only=True):
    found: Which


class GetWhich(Request[WhichCheckpoint], frozen=True, kw_only=True, tag="run.which"):
    """Which of a run's checkpoints to take, as far as they are measured."""

    run: str


class MeasureRun(Request[WhichCheckpoint], frozen=True, kw_only=True, tag="run.measure"):
    """Measure what is not measured yet of a run's kept checkpoints, and say which to take.

    Reports progress. Goes on if the client leaves; asked again, it goes on where it was. Beside a
    training run it takes its turn between two steps, and it may be that very run.
    """

    changes: ClassVar[bool] = True
    run: str


class Pair(Record, frozen=True, kw_only=True):
    """Two pictures of one prompt and seed by two checkpoints, without their names: two blobs."""

    pair: str  # its name, for ChoosePicture
    prompt: str
    chosen: int  # pairs that were chosen from so far
    wanted: int  # until the choice counts


class GetPair(Request[Pair], frozen=True, kw_only=True, tag="run.pair"):
    """The next pair to choose from. WRONG_STATE before two checkpoints are measured."""

    run: str


class ChoosePicture(Request[WhichCheckpoint], frozen=True, kw_only=True, tag="run.choose"):
    """Say which picture of a pair is better. CONFLICT if the pair is not the next one: somebody
    else has chosen meanwhile."""

    changes: ClassVar[bool] = True
    run: str
    pair: str
    better: Literal["left", "right", "neither"]


class UndoChoice(Request[WhichCheckpoint], frozen=True, kw_only=True, tag="run.choose.undo"):
    """Take back the last choice of a run. NOT_FOUND if there is none."""

    changes: ClassVar[bool] = True
    run: str


class History(Record, frozen=True, kw_only=True):
    samples: list[DeviceUse]


class GetHistory(Request[History], frozen=True, kw_only=True, tag="device.history"):
    """Device use over the last ``seconds``, decimated to at most ``points``."""

    seconds: float = 3600
    points: int = 600


class Generate(Request[Picture], frozen=True, kw_only=True, tag="generate"):
    """Make one picture; reports steps as progress. Takes its turn beside a training run;
    ``patient``: as one of many, so that the run goes on in between for as long as a picture takes.
    """

    changes: ClassVar[bool] = True
    spec: PictureSpec
    patient: bool = False


class Embedding(Record, frozen=True, kw_only=True):
    """A textual inversion: its name stands for its vectors in a prompt."""

    name: str
    path: str
    vectors: int = 0
    widths: list[int] = []  # numbers in a vector, for each text encoder: 768 for SD 1.x
    problem: str = ""  # why it cannot be used; empty if it can


class EmbeddingsFound(Record, frozen=True, kw_only=True):
    folder: str  # where the daemon looks for them
    embeddings: list[Embedding]


class ListEmbeddings(Request[EmbeddingsFound], frozen=True, kw_only=True, tag="embedding.list"):
    """The textual inversions that prompts may name. A LoRA file may bring others."""


class Upscaler(Record, frozen=True, kw_only=True):
    """A network's file; its name is what a second pass calls it by."""

    name: str
    path: str
    problem: str = ""  # why it cannot be used; empty if it can


class UpscalersFound(Record, frozen=True, kw_only=True):
    folder: str  # where the daemon looks for them
    upscalers: list[Upscaler]


class ListUpscalers(Request[UpscalersFound], frozen=True, kw_only=True, tag="upscaler.list"):
    """The networks that may enlarge a picture before its second pass. Latent and Lanczos need
    none."""


class Grid(Record, frozen=True, kw_only=True):
    """A grid of pictures in a folder of the daemon's machine, and its labelled sheet."""

    folder: str
    picture: Picture  # the sheet
    pictures: int
    painted: int  # of them now; the others were there


class PaintGrid(Request[Grid], frozen=True, kw_only=True, tag="grid"):
    """Paint ``spec`` along one to three axes, as shared.grids reads them: columns, rows, blocks.

    Goes on where the same grid was cut short; pictures that are there are kept. Reports progress.
    """

    changes: ClassVar[bool] = True
    spec: PictureSpec
    axes: Annotated[list[Text], Meta(min_length=1, max_length=3)]
    name: str = ""  # of its folder; empty: after the prompt


class ChangeMix(Request[Mix], frozen=True, kw_only=True, tag="mix.change"):
    """Change the live mix from ``before``, as this client knew it, to ``after``.

    What somebody else has changed meanwhile stays, unless both changed the same value: then nothing
    happens, and the answer is CONFLICT with ``data.current`` (a Mix) and ``data.what``. NOT_FOUND
    for a base or an added LoRA that is not there, ALREADY_EXISTS for a LoRA that is in twice.
    """

    changes: ClassVar[bool] = True
    before: MixSpec
    after: MixSpec


class FlipMix(Request[Mix], frozen=True, kw_only=True, tag="mix.flip"):
    """Go to the live mix's other side and keep this one; the first time both are the same.
    CONFLICT with ``data.current`` if ``if_rev`` is not the present revision."""

    changes: ClassVar[bool] = True
    if_rev: int


class SaveMix(Request[Mix], frozen=True, kw_only=True, tag="mix.save"):
    """Keep the live mix under a name, in place of what had that name."""

    changes: ClassVar[bool] = True
    name: str


class RemoveMix(Request[Done], frozen=True, kw_only=True, tag="mix.remove"):
    """Forget a saved mix."""

    changes: ClassVar[bool] = True
    name: str


class MixView(Record, frozen=True, kw_only=True):
    """The live mix's picture, and what is being done about it. One blob where ``picture`` is one
    that the client has not: the PNG, or a smaller JPEG."""

    token: str  # another one whenever anything here has changed
    rev: int  # of the mix that ``stage`` is about
    stage: Literal["waiting", "preview", "full", "done", "failed"]  # the picture being made
    step: int  # denoising steps done of it
    steps: int  # 0: the engine is not yet at it
    picture: str  # id of the newest there is; empty: none
    picture_rev: int  # of the mix that it shows
    sharp: bool  # it is not a preview
    seconds: float  # from the change to the picture; 0: it had been painted before
    failure: Failure | None  # why there is no picture
    notes: list[str]  # such as what of a LoRA this base has no place for
    before: str = ""  # what the engine does before the first step, such as loading a base


class WatchMix(Request[MixView], frozen=True, kw_only=True, tag="mix.watch"):
    """Wait until the view is another than ``seen``. Pictures are made while somebody watches: a
    preview after few steps, then the whole one; a newer change gives both up."""

    seen: str = ""  # the token of the view that this client has
    have: str = ""  # the picture that it has
    side: int = 0  # pixels: make a larger picture as small as that; 0: the file as it is
    again: bool = False  # try once more what has failed


class GetTried(Request[Thumbnail], frozen=True, kw_only=True, tag="mix.tried"):
    """The picture of a mix that was tried, as small as ``side`` pixels (0: as it is)."""

    tried: str
    side: int = 0


class PictureFile(Record, frozen=True, kw_only=True):
    """One blob: the PNG itself, or a smaller JPEG where a size was asked."""

    picture: Picture
    media_type: str


class GetPicture(Request[PictureFile], frozen=True, kw_only=True, tag="picture.file"):
    picture: str
    width: int = 0  # 0: the file as it is
    height: int = 0


class RemovePicture(Request[Done], frozen=True, kw_only=True, tag="picture.remove"):
    changes: ClassVar[bool] = True
    picture: str


class Skipped(Record, frozen=True, kw_only=True):
    """A file that is not taken in, and why."""

    path: str
    why: str


class GalleryPage(Record, frozen=True, kw_only=True):
    """Some of the gallery's pictures, and how many pass the filter in all."""

    total: int
    pictures: list[Shown]


class ListGallery(Request[GalleryPage], frozen=True, kw_only=True, tag="gallery.list"):
    """Pictures made here and those of other tools that were imported, as shared.gallery filters and
    orders them."""

    filter: Text = ""
    order: Order = "newest"
    offset: int = 0
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class GalleryFound(Record, frozen=True, kw_only=True):
    """A picture, the spec that asks for it once more with what there is here, and what of it cannot
    be had, in sentences. One blob where a side or the file was asked for."""

    picture: Shown
    spec: PictureSpec
    left: list[str]
    suffix: str = ""  # of the blob's kind, with its point


class GetGalleryPicture(Request[GalleryFound], frozen=True, kw_only=True, tag="gallery.get"):
    """``picture``: an id, the beginning of one, or a path. ``side``: a JPEG at most so large, in
    pixels; 0: the file itself if ``file``, and ``bare`` of what is written in it."""

    picture: str
    side: Annotated[int, Meta(ge=0, le=2048)] = 0
    file: bool = False
    bare: bool = False


class RatePicture(Request[Done], frozen=True, kw_only=True, tag="gallery.rate"):
    """Rate a picture 1 to 5; 0 takes the rating back."""

    changes: ClassVar[bool] = True
    picture: str
    rating: Annotated[int, Meta(ge=0, le=5)]


class PicturesImported(Record, frozen=True, kw_only=True):
    """``same``: pictures that were known, and are as they were."""

    added: int
    changed: int
    same: int
    skipped: list[Skipped]


class ImportPictures(Request[PicturesImported], frozen=True, kw_only=True, tag="gallery.import"):
    """Show pictures of other tools, files or whole folders, where they lie; reports progress."""

    changes: ClassVar[bool] = True
    paths: Annotated[list[str], Meta(min_length=1)]


class LoraInfo(Record, frozen=True, kw_only=True):
    """What a LoRA file's header says."""

    path: str
    size: int
    dialect: str  # kohya, peft, diffusers
    rank: list[int]  # the ranks that occur
    alpha: list[float]
    modules: dict[str, int]  # "unet": 128, "text_encoder": 0
    base_version: str
    title: str
    trigger: str
    steps: int
    epochs: int
    sha256: str
    metadata: dict[str, str]


class InspectLora(Request[LoraInfo], frozen=True, kw_only=True, tag="lora.inspect"):
    """``lora``: a name in the library or a path on the daemon's machine."""

    lora: str


class LorasCompared(Record, frozen=True, kw_only=True):
    found: Conflict


class CompareLoras(Request[LorasCompared], frozen=True, kw_only=True, tag="lora.compare"):
    """Where LoRAs fight at these weights, from their files alone. ``base``: block weights need it,
    and where its inputs have been measured with these LoRAs, they weigh what is compared.
    ``modules``: of each module too, for up to 8 LoRAs."""

    loras: list[LoraUse]
    base: str = ""
    modules: bool = False


class LorasProbed(Record, frozen=True, kw_only=True):
    found: Probe


class ProbeLoras(Request[LorasProbed], frozen=True, kw_only=True, tag="lora.probe"):
    """How much of each LoRA's effect on a base survives in the mix, by its noise predictions.

    ``losses``: how many pictures to paint of the base, of each LoRA alone and of the mix, to
    foretell from them what each loses of what it shows alone (``shared.company``).

    Takes turns with a training run and with pictures; reports progress. Cancelled with its call.
    Afterwards what the base's modules are given is known as well, as MeasureInputs has it.
    """

    loras: list[LoraUse]
    base: str
    prompts: Annotated[list[str], Meta(max_length=16)] = []  # none: what the LoRAs learnt to show
    negative: str = ""
    cfg: Annotated[float, Meta(ge=0, le=100)] = 7.0
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 1025
    width: Annotated[int, Meta(ge=0, le=8192)] = 0
    height: Annotated[int, Meta(ge=0, le=8192)] = 0
    blocks: bool = False  # each block of each LoRA too
    instead: list[LoraUse] = []  # another mix, to be held against the effects of ``loras``
    remedies: bool = False  # work out other weights, and probe them
    losses: Annotated[int, Meta(ge=0, le=company.MOST)] = 0


class InputsMeasured(Record, frozen=True, kw_only=True):
    """``path``: the measurement, on the daemon's machine; ``order``: each LoRA's place in it."""

    path: str
    order: list[int]
    notes: list[str]


class MeasureInputs(Request[InputsMeasured], frozen=True, kw_only=True, tag="lora.measure"):
    """Measure what the modules that these LoRAs change are given on a base, if it is not known."""

    loras: list[str]
    base: str
    prompts: Annotated[list[str], Meta(max_length=16)] = []


class ColumnsLearnt(Record, frozen=True, kw_only=True):
    """``path``: the coefficients, on the daemon's machine, for these LoRAs in this order.

    ``before``, ``after``: of each LoRA, how far the mix is from what it does alone, as a share of
    that, on a picture that was kept back: of the plain sum, and with the coefficients. ``overlap``:
    the mean of |mᵢ · mⱼ|, 1 to begin with.
    """

    path: str
    before: list[float]
    after: list[float]
    overlap: float
    notes: list[str]


class LearnColumns(Request[ColumnsLearnt], frozen=True, kw_only=True, tag="lora.columns"):
    """Learn ZipLoRA's merger coefficients on a base, if they are not known: one for each LoRA and
    column, so that each keeps its effect on its own prompts and they read different columns.

    ``prompts``: of each LoRA; none: what it learnt to show. Takes turns with a training run and
    with pictures; reports progress. Cancelled with its call; asked again, it goes on where it was.
    """

    loras: list[LoraUse]
    base: str
    prompts: list[list[str]] = []
    cfg: Annotated[float, Meta(ge=0, le=100)] = 7.0
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 1025
    steps: Annotated[int, Meta(ge=1, le=10_000)] = zipping.STEPS
    rate: Annotated[float, Meta(gt=0, le=1)] = zipping.RATE
    penalty: Annotated[float, Meta(ge=0, le=1000)] = zipping.PENALTY


class LoraMerged(Record, frozen=True, kw_only=True):
    """``error``: ‖saved − wanted‖ / ‖wanted‖ over all modules."""

    lora: Lora
    error: float
    notes: list[str]


class MergeLoras(Request[LoraMerged], frozen=True, kw_only=True, tag="lora.merge"):
    """Make one file of LoRAs, each at its weight, in the workspace, and list it in the library.

    ``lora_orders.MergeOrder`` says what the methods are. ``base``: needed for ziplora, which learns
    on it, and for DoRAs; orthogonal weighs by what its modules are given. ``prompts``: as
    LearnColumns. Raises ALREADY_EXISTS where the library has a LoRA of this name.
    """

    loras: list[LoraUse]
    name: str
    method: Method = "exact"
    base: str = ""
    rank: Annotated[int, Meta(ge=0, le=4096)] = 0
    error: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    density: Annotated[float, Meta(gt=0, le=1)] = 0.5
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 0
    prompts: list[list[str]] = []


class LoraWeighed(Record, frozen=True, kw_only=True):
    """``kept``: whether the library keeps it; not of a file that it does not list."""

    lora: str
    advised: Advised
    kept: bool


class WeighLora(Request[LoraWeighed], frozen=True, kw_only=True, tag="lora.weigh"):
    """Measure at rising weights how much of a LoRA pictures of its own prompts show, and how far
    unrelated prompts drift; keep the weight to begin with (``shared.weighing`` says how).

    ``base``: empty takes the one it was trained on here. ``prompts``: empty takes what it learnt to
    show. ``trigger``: without it the prompts are asked as well, to see what leaks; empty takes the
    word that the library or the file has. Takes turns with a training run and with pictures;
    reports progress. Cancelled with its call.
    """

    lora: str
    base: str = ""
    prompts: Annotated[list[str], Meta(max_length=16)] = []
    weights: Annotated[list[float], Meta(max_length=weighing.MOST)] = []
    trigger: str = ""
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 1025


class AffinityFound(Record, frozen=True, kw_only=True):
    found: Affinity


class CheckAffinity(Request[AffinityFound], frozen=True, kw_only=True, tag="lora.affinity"):
    """Does a LoRA belong on a base? By what its file says, else by its weights. ``thorough``: where
    it does not, hold it against the other bases too."""

    lora: str
    base: str
    thorough: bool = False


class LorasIndexed(Record, frozen=True, kw_only=True):
    """What was found. ``same``: known, and as they were; ``gone``: no longer listed, or marked
    where a whole folder is not there."""

    folders: list[str]
    added: list[str]  # names in the library, as are the next two
    changed: list[str]
    gone: list[str]
    same: int
    skipped: list[Skipped]


class IndexLoras(Request[LorasIndexed], frozen=True, kw_only=True, tag="lora.index"):
    """List the LoRA files of a folder and all below it, by their headers alone; they stay where
    they are. No folder: look again at all that were indexed. ``forget``: list them no longer."""

    changes: ClassVar[bool] = True
    folder: str = ""
    forget: bool = False


class CardFound(Record, frozen=True, kw_only=True):
    found: LoraCard


class GetLoraCard(Request[CardFound], frozen=True, kw_only=True, tag="lora.card"):
    """All that is known of a LoRA, by a name in the library or a path. ``spectrum``: the singular
    values of what it adds too, which reads the file; ``modules``: those of each module."""

    lora: str
    spectrum: bool = False
    modules: bool = False


class GetLoraPreview(Request[Thumbnail], frozen=True, kw_only=True, tag="lora.preview"):
    """The picture that lies beside a LoRA file, to fit ``width`` × ``height`` pixels. NOT_FOUND
    where there is none."""

    lora: str
    width: int = 512
    height: int = 512


class DuplicatesFound(Record, frozen=True, kw_only=True):
    """``groups``: names of LoRAs with the same tensors, whatever their names and metadata."""

    groups: list[list[str]]
    read: int  # files that had to be read now
    unread: list[Skipped]


class FindDuplicates(Request[DuplicatesFound], frozen=True, kw_only=True, tag="lora.duplicates"):
    """Which LoRAs of the library are the same. Only files of equal shapes are read, and once;
    reports progress."""


class RemoveLora(Request[Done], frozen=True, kw_only=True, tag="lora.remove"):
    changes: ClassVar[bool] = True
    lora: str


class AddBase(Request[BaseModel], frozen=True, kw_only=True, tag="base.add"):
    """Reference a diffusers folder or one file as a base, or fetch one from the Hub or an address.

    Reports progress. Cancelled with its call; asked again, it goes on where it was.
    """

    changes: ClassVar[bool] = True
    path: str = ""
    hub: FromHub | None = None
    address: FromAddress | None = None
    name: str = ""
    predicts: Objective | None = None  # where its files do not say, or say something else


class InspectBase(Request[BaseModel], frozen=True, kw_only=True, tag="base.inspect"):
    """Look a base over anew. ``base``: its name, or a path on the daemon's machine."""

    base: str


class RemoveBase(Request[Done], frozen=True, kw_only=True, tag="base.remove"):
    """Forget a base. Its files stay."""

    changes: ClassVar[bool] = True
    base: str


AnyRequest = (
    GetStatus
    | Stop
    | GetLog
    | GetState
    | Look
    | ImportDataset
    | ExportDataset
    | RemoveDataset
    | GetHealth
    | CheckHealth
    | ListItems
    | FindPlace
    | CountStates
    | SaveFilter
    | RemoveFilter
    | GetItem
    | GetThumbnail
    | FramePictures
    | ListBuckets
    | PreviewBucket
    | ChangeCaption
    | PreviewEdit
    | ListDifferences
    | ApplyEdit
    | CaptionPictures
    | SteerCaptioning
    | GetCandidates
    | GetTags
    | UndoCaption
    | StartRun
    | CheckRecipes
    | StartSweep
    | ArrangeRun
    | ExtendRun
    | ForkRun
    | SteerRun
    | RemoveRun
    | GetRun
    | GetSeries
    | GetWhich
    | MeasureRun
    | GetPair
    | ChoosePicture
    | UndoChoice
    | GetHistory
    | Generate
    | ListEmbeddings
    | ListUpscalers
    | PaintGrid
    | ChangeMix
    | FlipMix
    | SaveMix
    | RemoveMix
    | WatchMix
    | GetTried
    | GetPicture
    | RemovePicture
    | ListGallery
    | GetGalleryPicture
    | RatePicture
    | ImportPictures
    | InspectLora
    | CompareLoras
    | ProbeLoras
    | MeasureInputs
    | LearnColumns
    | MergeLoras
    | WeighLora
    | CheckAffinity
    | IndexLoras
    | GetLoraCard
    | GetLoraPreview
    | FindDuplicates
    | RemoveLora
    | AddBase
    | InspectBase
    | RemoveBase
)


def answer_type(request: type[Request[Any]]) -> Any:
    """The ``R`` of a ``Request[R]`` subclass."""
    return get_args(request.__orig_bases__[0])[0]  # type: ignore[attr-defined]


# ── messages: client → daemon ───────────────────────────────────────────────────────────────────


class Resume(Record, frozen=True, kw_only=True):
    """What the client last knew: the journal it read and how far."""

    incarnation: str
    seq: int


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first message of a session; anything else from a stranger is refused."""

    protocol: tuple[int, int]  # oldest, newest
    client: str  # name of the person or script
    host: str = ""
    terminal: str = ""
    version: str = ""
    subscribe: bool = True  # snapshot, events and live values; else answers only
    resume: Resume | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True, tag="call"):
    """One request. ``key``: for requests that change something; the same key again gives the
    remembered answer and no second effect."""

    id: int
    request: AnyRequest
    key: str = ""


class CancelCall(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    id: int


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag="ping"):
    pass


class Bye(msgspec.Struct, frozen=True, kw_only=True, tag="bye"):
    pass


ClientMessage = Hello | Call | CancelCall | Ping | Bye


# ── messages: daemon → client ───────────────────────────────────────────────────────────────────


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    protocol: int
    incarnation: str  # names the journal: a restored backup has another
    head_seq: int
    session: str
    version: str
    max_header: int = MAX_HEADER
    max_blob: int = MAX_BLOB


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The session is not accepted (INCOMPATIBLE), or not known (say hello first)."""

    failure: Failure
    protocol: tuple[int, int] = PROTOCOL
    say_hello: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """The whole state at ``seq``; events after it follow.

    A large one comes in several messages, one after the other: the state is the rows of all.
    """

    seq: int
    state: State
    more: bool = False  # another part follows


class Journalled(msgspec.Struct, frozen=True, kw_only=True, tag="event"):
    """``by`` names the client whose request caused it, or the daemon's part."""

    seq: int
    at: float
    by: str
    event: AnyEvent


class LiveUpdate(msgspec.Struct, frozen=True, kw_only=True, tag="live"):
    values: list[AnyLive]


class Resync(msgspec.Struct, frozen=True, kw_only=True, tag="resync"):
    """The client did not read and its queue was dropped; a fresh snapshot follows."""

    reason: str


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    id: int
    done: int
    total: int
    message: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag="answer"):
    """``result`` is the request's answer type; blobs follow as frames."""

    id: int
    result: msgspec.Raw


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    id: int
    failure: Failure


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag="pong"):
    pass


class Leaving(msgspec.Struct, frozen=True, kw_only=True, tag="leaving"):
    """The daemon ends."""

    reason: str


DaemonMessage = (
    Welcome
    | Refused
    | Snapshot
    | Journalled
    | LiveUpdate
    | Resync
    | Progress
    | Answer
    | Failed
    | Pong
    | Leaving
)

encoder = msgspec.msgpack.Encoder()
_from_client = msgspec.msgpack.Decoder(ClientMessage)
_from_daemon = msgspec.msgpack.Decoder(DaemonMessage)


def pack(message: ClientMessage | DaemonMessage, blobs: list[bytes] | None = None) -> list[bytes]:
    """Frames of a message. Raises LoraError(TOO_LARGE) before anything is sent: an oversize frame
    would drop the connection without a word."""
    header = encoder.encode(message)
    blobs = blobs or []
    if len(header) > MAX_HEADER or len(blobs) > MAX_BLOBS or any(len(b) > MAX_BLOB for b in blobs):
        raise LoraError(
            Code.TOO_LARGE,
            f"That message is too large to send (header {len(header)} bytes of {MAX_HEADER}, "
            f"largest attachment {max(map(len, blobs), default=0)} of {MAX_BLOB}).",
        )
    return [MAGIC, header, *blobs]


def unpack_client(frames: list[bytes]) -> tuple[ClientMessage, list[bytes]]:
    """A client's message in the daemon. Raises LoraError(BAD_REQUEST, INCOMPATIBLE, TOO_LARGE)."""
    return _unpack(frames, _from_client)


def unread_call(frames: list[bytes]) -> tuple[int, str] | None:
    """The id and the op of a client's call that ``unpack_client`` could not read, if it is one:
    that of a newer client, say. The op is empty where this side knows it."""
    try:
        call = msgspec.msgpack.decode(frames[1], type=_UnreadCall)
    except (msgspec.MsgspecError, IndexError):
        return None
    known = {request.__struct_config__.tag for request in get_args(AnyRequest)}
    return call.id, "" if call.request.op in known else call.request.op


class _UnreadRequest(msgspec.Struct):
    op: str


class _UnreadCall(msgspec.Struct, tag="call", tag_field="type"):
    id: int
    request: _UnreadRequest


def unpack_daemon(frames: list[bytes]) -> tuple[DaemonMessage, list[bytes]]:
    """The daemon's message in a client. Raises LoraError(BAD_REQUEST, INCOMPATIBLE, TOO_LARGE)."""
    return _unpack(frames, _from_daemon)


def _unpack(frames: list[bytes], decoder: msgspec.msgpack.Decoder[R]) -> tuple[R, list[bytes]]:
    if len(frames) < 2 or frames[0][:4] != MAGIC[:4]:
        raise LoraError(Code.BAD_REQUEST, "That is not a lora-tui message.")
    if frames[0] != MAGIC:
        raise LoraError(
            Code.INCOMPATIBLE,
            f"The other side frames its messages in version {frames[0][4:].hex() or '?'}, this "
            f"one in {MAGIC[4:].hex()}. Install the same lora-tui on both machines.",
        )
    if len(frames) - 2 > MAX_BLOBS or sum(map(len, frames)) > MAX_HEADER + MAX_BLOBS * MAX_BLOB:
        raise LoraError(Code.TOO_LARGE, "That message is larger than the protocol allows.")
    try:
        return decoder.decode(frames[1]), frames[2:]
    except msgspec.MsgspecError as error:
        raise LoraError(Code.BAD_REQUEST, f"That message makes no sense: {error}.") from None
