"""Which tensors of a LoRA file belong together, and what kind of adapter each module is.

The dialects (kohya's, which the WebUI reads, diffusers' and PEFT's) name the same tensors in
different ways; here each tensor gets a role, and the roles of a module decide its kind. Kinds whose
mathematics we do not have are refused by name: a file is never applied in part without a word.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from shared.errors import Code, LoraError
from shared.safetensors_file import Header

IN_FOLDER = "adapter_model.safetensors"  # as PEFT calls it
Dialect = Literal["kohya", "diffusers", "peft"]
Kind = Literal["lora", "loha", "lokr", "full"]

# Ending → (role, dialect; empty: all of them). The longest that fits counts.
_NAMED: dict[str, tuple[str, Dialect | Literal[""]]] = {
    ".lora_magnitude_vector.default.weight": ("rows", "peft"),
    ".lora_magnitude_vector.weight": ("rows", "peft"),
    ".lora_A.default.weight": ("down", "peft"),
    ".lora_B.default.weight": ("up", "peft"),
    ".lora.down.weight": ("down", "diffusers"),
    ".lora.up.weight": ("up", "diffusers"),
    ".lora_down.weight": ("down", "kohya"),
    ".lora_up.weight": ("up", "kohya"),
    ".lora_mid.weight": ("mid", "kohya"),
    ".lora_A.weight": ("down", "peft"),
    ".lora_B.weight": ("up", "peft"),
    ".lora_magnitude_vector": ("rows", "peft"),
    ".dora_scale": ("magnitude", ""),
    ".alpha": ("alpha", ""),
    ".diff": ("diff", "kohya"),
    ".diff_b": ("bias", "kohya"),
}
_KOHYA = {role: ending for ending, (role, dialect) in _NAMED.items() if dialect in ("kohya", "")}
_LYCORIS = (
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
)  # fmt: skip
_ENDINGS: dict[str, tuple[str, Dialect | Literal[""]]] = {
    **_NAMED,
    **{f".{role}": (role, "") for role in _LYCORIS},
}
_DOTS = max(ending.count(".") for ending in _ENDINGS)
_NORMS = "an adapter with trained norms"
_REFUSED = (
    (re.compile(r"\.(oft_|boft_)"), "an OFT"),
    (re.compile(r"\.(a1|a2|b1|b2)\.weight$|\.glora"), "a GLoRA"),
    (re.compile(r"\.on_input$|\.ia3_l"), "an IA³"),
    (re.compile(r"\.(w_norm|b_norm)$"), _NORMS),
    (re.compile(r"\.vera_"), "a VeRA"),
)
_SUSPECT = re.compile("|".join(pattern.pattern for pattern, _ in _REFUSED))
_NEEDS = {
    "lora": ({"down", "up"}, {"mid"}),
    "loha": ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, {"hada_t1", "hada_t2"}),
    "full": ({"diff"}, {"bias"}),
}
_EVERYWHERE = {"alpha", "magnitude", "rows"}
_FLOATS = {"F16", "BF16", "F32", "F64"}
_WHOLE = {"I16", "I32", "I64"}  # kohya's scripts write an alpha as it was given to them
# diffusers' first form: "….attn1.processor.to_q_lora.down.weight"
_PROCESSOR = re.compile(
    r"^(?P<path>.+)\.processor\.(?P<leaf>to_(?:q|k|v|out))_lora\.(?P<role>down|up)\.weight$"
)


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """One module of a LoRA file.

    ``name``: the kohya name, or a dotted path that starts ``unet.`` or ``text_encoder…``.
    ``tensors``: role → the tensor's name in the file. ``rank``: 0 where the kind has none.
    ``scale``: alpha / rank where the file keeps it outside the tensors.
    """

    name: str
    kind: Kind
    tensors: dict[str, str]
    rank: int
    scale: float

    @property
    def alpha(self) -> str:
        """The tensor to divide by ``rank``, empty where ``scale`` holds already."""
        return self.tensors.get("alpha", "") if self.rank else ""

    @property
    def matrix(self) -> str:
        """The name of one of its tensors other than alpha."""
        return min(name for role, name in self.tensors.items() if role != "alpha")

    @property
    def plain(self) -> bool:
        """Whether it is two matrices to multiply, and a scale."""
        return self.kind == "lora" and self.tensors.keys() <= {"down", "up", "alpha"}

    @property
    def decomposed(self) -> bool:
        """Whether it is a DoRA: what it adds depends on the base's weight."""
        return not self.tensors.keys().isdisjoint(("rows", "magnitude"))


class Contents(msgspec.Struct, frozen=True):
    """What is in a LoRA file: its modules by name, and the tensors that belong to none."""

    modules: list[Module]
    unknown: list[str]


def file_of(path: Path) -> Path:
    """The file of a LoRA, which PEFT keeps in a folder; elsewhere the path itself."""
    return inside if (inside := path / IN_FOLDER).is_file() else path


def contents(path: Path, header: Header) -> Contents:
    """Every module of a LoRA file, in the order of their names.

    Raises LoraError(INVALID_FILE) if it is no LoRA, is not complete, or is an adapter of a kind
    that cannot be applied.
    """
    roles: dict[str, dict[str, str]] = {}
    unknown = []
    for key in sorted(header.tensors):
        if _SUSPECT.search(key):
            kind = next(kind for pattern, kind in _REFUSED if pattern.search(key))
            raise _refused(path, kind, key)
        if (split := split_key(key)) is None:
            unknown.append(key)
            continue
        module, role, _ = split
        if role in (known := roles.setdefault(module, {})):
            raise wrong(path, f"names one matrix twice: {known[role]} and {key}")
        known[role] = key
    for key in unknown:
        module, _, _ = key.rpartition(".")
        if _spelled(module) in roles:
            raise wrong(path, f"holds {key}, a part of an adapter that lora-tui does not know")
    configs = _configs(path, header)
    found = [_module(path, header, configs, *item) for item in sorted(roles.items())]
    if not found:
        raise wrong(path, "is not a LoRA: no tensor in it is named like one")
    return Contents(found, unknown)


def split_key(key: str) -> tuple[str, str, Dialect | Literal[""]] | None:
    """A tensor's name to (module, role, dialect); None if it is not named like one of a LoRA's."""
    for start in _dots(key):
        if (named := _ENDINGS.get(key[start:])) is not None:
            return _spelled(key[:start]), *named
    if match := _PROCESSOR.match(key):
        leaf = match["leaf"] + (".0" if match["leaf"] == "to_out" else "")
        return _spelled(f"{match['path']}.{leaf}"), match["role"], "diffusers"
    return None


def _dots(key: str) -> list[int]:
    """Where its last dots are, as many as an ending has, the first of them first."""
    found: list[int] = []
    at = len(key)
    while len(found) < _DOTS and (at := key.rfind(".", 0, at)) >= 0:
        found.insert(0, at)
    return found


def kohya_ending(role: str) -> str:
    """What follows a module's name in a file of kohya's or LyCORIS's: ``.lora_down.weight``."""
    return _KOHYA.get(role, f".{role}")


def dialect(header: Header) -> Dialect:
    """Which of the three ways of naming a file uses."""
    known: set[str] = {split[2] for key in header.tensors if (split := split_key(key))}
    for one in ("kohya", "diffusers", "peft"):
        if one in known:
            return one
    return "kohya" if any(key.startswith("lora_") for key in header.tensors) else "peft"


def wrong(path: Path, what: str) -> LoraError:
    """``what`` reads on from the file's path."""
    return LoraError(Code.INVALID_FILE, f"{path} {what}.", data={"path": str(path)})


def _refused(path: Path, kind: str, key: str) -> LoraError:
    return wrong(path, f"is {kind}, which lora-tui cannot apply ({key})")


def _module(
    path: Path, header: Header, configs: Mapping[str, Mapping[str, Any]], name: str,
    tensors: dict[str, str],
) -> Module:  # fmt: skip
    kind = _kind(tensors)
    if kind is None:
        raise wrong(path, f"is not complete: {min(tensors.values())} stands alone")
    if absent := _absent(kind, tensors):
        raise wrong(
            path, f"is not complete: {min(tensors.values())} has no {min(absent)} beside it"
        )
    if surplus := tensors.keys() - _EVERYWHERE - _allowed(kind):
        key = tensors[min(surplus)]
        raise wrong(path, f"mixes two kinds of adapter in one module: {key}")
    for role, key in tensors.items():
        dtype = header.tensors[key].dtype
        if dtype not in (_FLOATS | _WHOLE if role == "alpha" else _FLOATS):
            raise wrong(
                path,
                f"keeps {key} as {dtype}, which lora-tui does not read. Save it as F16, BF16 or "
                "F32 with the tool it came from",
            )
    if kind == "full" and len(header.tensors[tensors["diff"]].shape) == 1:
        raise _refused(path, _NORMS, tensors["diff"])
    rank = _rank(path, header, kind, tensors)
    part, _, inside = name.partition(".")
    scale = 1.0 if "alpha" in tensors else _scale(configs.get(part, {}), inside, rank)
    return Module(name=name, kind=kind, tensors=tensors, rank=rank, scale=scale)


def _kind(tensors: Mapping[str, str]) -> Kind | None:
    for role in tensors:
        if role in ("down", "up", "mid"):
            return "lora"
        if role.startswith("hada_"):
            return "loha"
        if role.startswith("lokr_"):
            return "lokr"
        if role in ("diff", "bias"):
            return "full"
    return None


def _allowed(kind: Kind) -> set[str]:
    if kind == "lokr":
        return {role for role in _LYCORIS if role.startswith("lokr_")}
    needed, optional = _NEEDS[kind]
    return needed | optional


def _absent(kind: Kind, tensors: Mapping[str, str]) -> set[str]:
    """Roles that the module lacks."""
    has = set(tensors)
    if kind != "lokr":
        needed, optional = _NEEDS[kind]
        both = {"hada_t1", "hada_t2"} if has & {"hada_t1", "hada_t2"} else set()
        return (needed | (both & optional)) - has
    absent: set[str] = set()
    for side in ("lokr_w1", "lokr_w2"):
        if side not in has:
            absent |= {f"{side}_a", f"{side}_b"} - has
    return absent


def _rank(path: Path, header: Header, kind: Kind, tensors: Mapping[str, str]) -> int:
    """What alpha is divided by; 0 for kinds without one."""
    if kind == "full":
        return 0
    shapes = {role: header.tensors[key].shape for role, key in tensors.items()}
    if kind == "lora":
        down, up = shapes["down"], shapes["up"]
        middle = shapes.get("mid", (up[1], down[0]) if len(up) > 1 and down else ())
        if (
            min(len(down), len(up), len(middle)) < 2
            or (up[1], down[0]) != middle[:2]
            or ("mid" not in shapes and up[1] != down[0])
        ):
            names = " and ".join(
                f"{tensors[role]} {shapes[role]}"
                for role in ("down", "mid", "up")
                if role in shapes
            )
            raise wrong(path, f"is broken: {names} do not multiply")
        rank = down[0]
    else:
        # LyCORIS: the second factor's rank, else the first's; a LoKr of two whole matrices has none
        inner = next((r for r in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b") if r in shapes), "")
        if not inner:
            return 0
        rank = shapes[inner][0] if shapes[inner] else 0
    if not rank:
        key = min(name for role, name in tensors.items() if role != "alpha")
        raise wrong(path, f"is broken: {key} has rank 0")
    return rank


def _spelled(module: str) -> str:
    """One spelling for the dotted dialects: it starts with ``unet.``,
    ``transformer.`` or ``text_encoder``."""
    if module.startswith("lora_"):
        return module
    module = module.removeprefix("base_model.model.")
    if module.startswith(("unet.", "transformer.", "text_encoder.", "text_encoder_2.")):
        return module
    if module.startswith(("text_model.", "encoder.layers.")):
        return f"text_encoder.{module}"
    if module.startswith(("transformer_blocks.", "single_transformer_blocks.")):
        return f"transformer.{module}"
    return f"unet.{module}" if "_blocks." in module or "mid_block." in module else module


def _configs(path: Path, header: Header) -> dict[str, dict[str, Any]]:
    """Part → its PEFT configuration, from the metadata (diffusers) or the file beside (PEFT)."""
    configs: dict[str, dict[str, Any]] = {}
    try:
        if text := header.metadata.get("lora_adapter_metadata"):
            for key, value in json.loads(text).items():
                part, _, name = key.partition(".")
                configs.setdefault(part, {})[name] = value
        beside = path.parent / "adapter_config.json"
        if not configs and beside.is_file() and dialect(header) == "peft":
            config = dict(json.loads(beside.read_bytes()))
            configs = dict.fromkeys(
                ("unet", "transformer", "text_encoder", "text_encoder_2"), config
            )
    except (ValueError, TypeError, AttributeError, OSError):
        return {}
    return configs


def _special(config: Mapping[str, Any], name: str, inside: str) -> Any:
    """What a pattern of a PEFT configuration says of a module; None if nothing."""
    found = None
    for pattern, special in (config.get(name) or {}).items():
        if inside == pattern or inside.endswith(f".{pattern}"):
            found = special
    return found


def _scale(config: Mapping[str, Any], inside: str, rank: int) -> float:
    """alpha / rank as a PEFT configuration has it; 1.0 without one."""
    rank = rank or _special(config, "rank_pattern", inside) or config.get("r", 0)
    alpha = config.get("lora_alpha", config.get("alpha", rank))
    alpha = _special(config, "alpha_pattern", inside) or alpha
    if not isinstance(alpha, int | float) or not isinstance(rank, int) or not rank:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
