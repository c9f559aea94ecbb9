"""Does a LoRA belong on a base? What the file says first, then the weights themselves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lora_daemon import base_folder, base_look, base_tensors, engine_process, input_cache
from lora_daemon.base_folder import STEMS, weight_files
from lora_daemon.library import Library
from lora_daemon.service import Context, Daemon
from shared import affinity, blocks, wire
from shared.affinity import Affinity, BlockDistance, Distance, How, Kinship, KinshipOrder
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.files import publish
from shared.lora_keys import contents
from shared.lora_names import dotted, is_sdxl
from shared.recipe_families import FLOW_VERSIONS, FLOWS
from shared.safetensors_file import Header, read_header
from shared.wire import FAMILIES, BaseModel

SHORT = 8  # digits of a hash that tell one file from another
_kinship = msgspec.json.Decoder(Kinship).decode


class Affinities:
    """Answers CheckAffinity. What had to be read of bases is kept by the state of their files."""

    def __init__(self, daemon: Daemon, library: Library) -> None:
        self._cache = daemon.workspace.cache / "kinship"
        self._library = library
        self._turn = asyncio.Lock()  # whole bases are read: one at a time

    async def check(
        self, context: Context, request: wire.CheckAffinity
    ) -> wire.AffinityFound:  # fmt: skip
        """Raises LoraError: NOT_FOUND, INVALID_FILE, STORAGE, WORKER_FAILED."""
        base = await self._library.base(request.base)
        name, path = self._library.lora(request.lora)
        header = await asyncio.to_thread(read_header, path)
        version = header.metadata.get("ss_base_model_version", "")
        if base.family in FLOWS or version in FLOW_VERSIONS:
            raise LoraError(
                Code.BAD_REQUEST,
                "Affinity compares the UNets of Stable Diffusion, and "
                + (f"{base.name} is a {FAMILIES[base.family]}." if base.family in FLOWS
                   else f"{name} was made for a FLUX.")
                + " Painting says whether a LoRA has a place on a base.",
            )  # fmt: skip
        modules = await asyncio.to_thread(_modules, path, header)
        says = header.metadata.get("ss_sd_model_name", "")
        trained, how = await self._trained_on(name, header)
        known = trained.name if trained else ""
        told = _Told(name, base, known, how, says)
        there, fitting = await asyncio.to_thread(_fitting, modules, base)
        if modules and (not fitting or (len(modules) - there) > there):
            return told.misfit(header, len(modules), fitting)
        objection = _objection(name, header, base)
        if trained is not None and trained.path == base.path:
            return told.same(objection)
        if not modules:
            return told.wordy()
        if trained is not None and not trained.problem:
            distance = await self._distance(trained, base, modules)
            if distance is not None:
                return told.apart(distance, objection)
        aligned = {base.name: await self._alignment(path, base)}
        if request.thorough and aligned[base.name] < affinity.ALIGNED:
            for other in self._library.bases():
                if other.family == base.family and not other.problem and other.name != base.name:
                    aligned[other.name] = await self._alignment(path, other)
        return told.along(aligned, objection)

    async def _trained_on(self, name: str, header: Header) -> tuple[BaseModel | None, How]:
        """The base at hand that a LoRA was trained on, and how that is known."""
        bases = [base for base in self._library.bases() if not base.problem]
        hashes = [
            value.lower() for key in ("ss_new_sd_model_hash", "ss_sd_model_hash")
            if len(value := header.metadata.get(key, "")) >= SHORT
        ]  # fmt: skip
        if hashes:
            for base in bases:
                own = await asyncio.to_thread(self._hashes, base)
                if any(one.startswith(wanted) for one in own for wanted in hashes):
                    return base, "hash"
            return None, ""  # it is another file, whatever it is called
        rows = {lora.name: lora for lora in self._library.loras()}
        if (row := rows.get(name)) and row.run and row.base:
            return next(((one, "run") for one in bases if one.name == row.base), (None, ""))
        said = header.metadata.get("ss_sd_model_name", "").rsplit("/", 1)[-1]
        said = said.removesuffix(".safetensors").lower()
        for base in bases:
            if said and said in (base.name.lower(), Path(typed(base.path)).stem.lower()):
                return base, "name"
        return None, ""

    def _hashes(self, base: BaseModel) -> list[str]:
        """SHA-256 of the base's file, or of its UNet's, and the WebUI's old one, in hex."""
        path = Path(typed(base.path))
        kept = self._kept("hashes", base)
        if kept.exists():
            return msgspec.json.decode(kept.read_bytes(), type=list[str])
        files = [path]
        if not path.is_file():
            denoiser = base_folder.family(path).denoiser
            files = weight_files(path / denoiser, STEMS[denoiser])
        whole = hashlib.sha256()
        for file in files:
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    whole.update(block)
        with files[0].open("rb") as opened:
            opened.seek(0x100000)
            old = hashlib.sha256(opened.read(0x10000)).hexdigest()[:SHORT]
        found = [whole.hexdigest(), old]
        _keep(kept, found)
        return found

    async def _distance(
        self, one: BaseModel, other: BaseModel, modules: dict[str, tuple[int, int]]
    ) -> Distance | None:  # fmt: skip
        """Over the modules that the LoRA changes; None where they have none in common."""
        order = KinshipOrder(base=one.path, other=other.path)
        found = await self._asked(order, self._kept("distance", one, other))
        config = await asyncio.to_thread(base_look.unet_config, Path(typed(other.path)))
        layers = int(config["layers_per_block"])
        sums: dict[str, list[float]] = {}
        for name, values in found.modules.items():
            if name in modules:
                label = blocks.label(name.removeprefix("unet."), layers)
                for where in ("", label):
                    total = sums.setdefault(where, [0.0, 0.0, 0.0])
                    total[:] = [a + b for a, b in zip(total, values, strict=True)]
        if "" not in sums or not all(sums[""][:2]):
            return None
        relative, cosine = _apart(sums.pop(""))
        each = [
            BlockDistance(block=label, relative=far, cosine=like)
            for label, (far, like) in zip(sums, map(_apart, sums.values()), strict=True)
        ]
        return Distance(
            of=one.name, to=other.name, relative=relative, cosine=cosine,
            blocks=sorted(each, key=lambda block: -block.relative),
        )  # fmt: skip

    async def _alignment(self, path: Path, base: BaseModel) -> float:
        """How much more of a LoRA lies along a base's directions than chance would have it."""
        kept = self._kept("alignment", base, lora=path)
        found = await self._asked(KinshipOrder(base=base.path, lora=to_text(path)), kept)
        values = [value for both in found.modules.values() for value in both]
        return sum(values) / len(values) if values else 1.0

    def _kept(self, what: str, *bases: BaseModel, lora: Path | None = None) -> Path:
        files = [Path(typed(base.path)) for base in bases] + ([lora] if lora else [])
        decides = msgspec.json.encode((what, [input_cache.stamps(file) for file in files]))
        return self._cache / f"{hashlib.sha256(decides).hexdigest()}.json"

    async def _asked(self, order: KinshipOrder, kept: Path) -> Kinship:
        async with self._turn:
            if (known := await asyncio.to_thread(_read, kept)) is not None:
                return known
            module = "lora_daemon.engine.kinship"
            found = await engine_process.ask(module, order, Kinship, "The comparison of bases")
            await asyncio.to_thread(_keep, kept, found)
        return found


def _read(kept: Path) -> Kinship | None:
    try:
        return _kinship(kept.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def _keep(kept: Path, value: object) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    publish(kept, msgspec.json.encode(value))


class _Told:
    """What is known of one LoRA on one base, put into words."""

    def __init__(self, lora: str, base: BaseModel, trained: str, how: How, says: str) -> None:
        self._lora, self._base, self._trained = lora, base, trained
        self._how, self._says = how, says

    def misfit(self, header: Header, count: int, fitting: int) -> wire.AffinityFound:
        version = header.metadata.get("ss_base_model_version", "")
        made = f" It was made for {version}." if version else ""
        family = FAMILIES.get(self._base.family, self._base.family)
        return self._found(
            "misfit",
            f"{self._lora} does not fit {self._base.name} ({family}): of its {count} modules "
            f"{fitting or 'none'} are of this base's size.{made}",
            warns=True,
        )

    def same(self, objection: str) -> wire.AffinityFound:
        text = f"{self._lora} was trained on {self._base.name} itself."
        return self._found("same", f"{text} {objection}".strip(), warns=bool(objection))

    def wordy(self) -> wire.AffinityFound:
        text = f"{self._lora} changes text encoders alone, which are not compared."
        return self._found("unknown", text, warns=False)

    def apart(self, distance: Distance, objection: str) -> wire.AffinityFound:
        fit = affinity.fit(distance)
        where = f", most in {distance.blocks[0].block}" if distance.blocks else ""
        far = f"{distance.relative:.0%} apart{where}; cosine {distance.cosine:z.2f}"
        said = {
            "kin": f"near kin ({far}): it should work",
            "distant": f"a distant relative ({far}): the style may be off",
            "foreign": f"no kin ({far}): it will do something else, or nothing that shows",
        }
        text = f"{self._lora} was trained on {self._trained}, and {self._base.name} is {said[fit]}."
        warns = fit != "kin" or bool(objection)
        return self._found(fit, f"{text} {objection}".strip(), warns=warns, distance=distance)

    def along(self, aligned: dict[str, float], objection: str) -> wire.AffinityFound:
        """By its own directions: what it was trained on is not at hand, or not said."""
        here = aligned[self._base.name]
        best = max(aligned, key=lambda name: aligned[name])
        base = f" ({self._says}, which is not here)" if self._says else ""
        if here >= affinity.ALIGNED:
            text = (
                f"What {self._lora} was trained on{base} is {self._base.name} or its kin: it lies "
                f"along its directions {here:.1f} times as much as chance."
            )
            return self._found("kin", f"{text} {objection}".strip(), warns=bool(objection),
                               how="weights", aligned=aligned)  # fmt: skip
        if here < affinity.CHANCE:
            text = (
                f"{self._lora} has nothing to do with {self._base.name}: it lies along its "
                f"directions no more than chance ({here:.2f} times). What it was trained "
                f"on{base} is no kin of it, so it will do something else, or nothing that shows."
            )
            if aligned[best] >= affinity.ALIGNED:
                text += f" It fits {best} ({aligned[best]:.1f} times)."
                self._trained = best
            return self._found("foreign", f"{text} {objection}".strip(), warns=True,
                               how="weights", aligned=aligned)  # fmt: skip
        text = f"Whether {self._lora} belongs on {self._base.name} cannot be told{base}."
        return self._found("unknown", f"{text} {objection}".strip(), warns=bool(objection),
                           aligned=aligned)  # fmt: skip

    def _found(
        self, fit: affinity.Fit, sentence: str, *, warns: bool, distance: Distance | None = None,
        how: How | None = None, aligned: dict[str, float] | None = None,
    ) -> wire.AffinityFound:  # fmt: skip
        found = Affinity(
            lora=self._lora, base=self._base.name, fit=fit, trained_on=self._trained,
            how=self._how if how is None else how, says=self._says, sentence=sentence,
            warning=sentence if warns else "", distance=distance, alignment=aligned or {},
        )  # fmt: skip
        return wire.AffinityFound(found=found)


def _modules(path: Path, header: Header) -> dict[str, tuple[int, int]]:
    """A LoRA's modules outside of text encoders by their dotted paths, with height and width where
    they tell."""
    sdxl = is_sdxl(header)
    found = {}
    for module in contents(path, header).modules:
        name = dotted(module.name, sdxl=sdxl) or module.name
        if not name.startswith(("text_encoder", "lora_te")):
            roles = module.tensors
            sizes = (0, 0)
            if "up" in roles and "down" in roles:
                up, down = (header.tensors[roles[role]].shape for role in ("up", "down"))
                sizes = (up[0], _product(down[1:]))
            found[name] = sizes
    return found


def _fitting(modules: dict[str, tuple[int, int]], base: BaseModel) -> tuple[int, int]:
    """How many of the modules the base has, and how many of those are of its size."""
    places = base_tensors.places(Path(typed(base.path)))
    there = fitting = 0
    for name, (high, wide) in modules.items():
        place = places.get(("unet", f"{name.removeprefix('unet.')}.weight"))
        if place is None:
            continue
        there += 1
        shape = place[1].tensors[f"{name.removeprefix('unet.')}.weight"].shape
        fitting += not high or (high, wide) == (shape[0], _product(shape[1:]))
    return there, fitting


def _product(numbers: Sequence[int]) -> int:
    total = 1
    for one in numbers:
        total *= one
    return total


def _apart(sums: Sequence[float]) -> tuple[float, float]:
    """Relative distance and cosine from ‖W‖², ‖W'‖², ⟨W, W'⟩."""
    one, other, both = sums
    relative = max(one + other - 2 * both, 0.0) ** 0.5 / one**0.5 if one else 0.0
    return relative, both / (one * other) ** 0.5 if one and other else 0.0


def _objection(name: str, header: Header, base: BaseModel) -> str:
    """Where the LoRA was trained to predict something else than the base does."""
    said = header.metadata.get("modelspec.prediction_type", "")
    version = header.metadata.get("ss_base_model_version", "")
    v = said.startswith("v") or version.endswith("_v")
    if not (said or version.startswith("sd_v2")) or v == (base.objective == "v_prediction"):
        return ""
    one, other = ("v", "noise") if v else ("noise", "v")
    return f"{name} was trained to predict {one}, and {base.name} predicts {other}."
