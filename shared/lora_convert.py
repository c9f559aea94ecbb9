"""LoRA files from one dialect to another, byte for byte: the matrices are never touched.

kohya keeps alpha in tensors, diffusers and PEFT in a configuration. What of the one has no place in
the other (an alpha's number format) goes into the metadata, so that the way back finds it.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from shared import provenance
from shared.errors import LoraError
from shared.files import publish
from shared.lora_info import PACKED, scalar
from shared.lora_keys import IN_FOLDER, Dialect, Module, contents, dialect, kohya_ending, wrong
from shared.lora_names import is_sdxl, to_dotted, to_kohya, to_original
from shared.safetensors_file import Header, Tensor, encode, read_header, read_tensor

_ALPHA = "lora_tui.alpha"  # number format and shape of the alphas a kohya file had
_CONFIG = "lora_adapter_metadata"
_PEFT_TYPES = {"loha": "LOHA", "lokr": "LOKR"}
_PAIRS = {"down", "up", "magnitude", "rows"}
_ENDS = {"down": ".lora_A.weight", "up": ".lora_B.weight", "rows": ".lora_magnitude_vector"}


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """What was written. ``left_out``: tensors of the file that belong to no LoRA."""

    files: list[str]
    source: str  # dialect
    target: str
    modules: int
    left_out: list[str]


class _One(msgspec.Struct, frozen=True):
    """A module with its raw tensors by role, alpha apart."""

    module: Module
    tensors: dict[str, Tensor]
    alpha: float
    alpha_tensor: Tensor | None


def convert(path: Path, to: Dialect, out: Path) -> Converted:
    """Write ``path`` in another dialect at ``out``: a file, or for PEFT a folder (with one more
    inside for each network if there are several).

    Raises LoraError: NOT_FOUND, STORAGE, or INVALID_FILE if the other dialect cannot say what is in
    the file (a DoRA of columns, a LoHa or LoKr for diffusers, names of no Stable Diffusion).
    """
    header = read_header(path)
    found = contents(path, header)
    ones = [_read(path, header, module) for module in found.modules]
    _check(path, ones, to)
    entry = {"name": path.name, "dialect": dialect(header)}
    files = (
        _kohya(header, ones, entry, out)
        if to == "kohya"
        else _dotted(path, header, ones, entry, out, peft=to == "peft")
    )
    for file, content in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LoraError.storage("make", file.parent, error) from None
        publish(file, content, mode=0o644)
    return Converted(
        files=[str(file) for file in files], source=dialect(header), target=to,
        modules=len(ones), left_out=found.unknown,
    )  # fmt: skip


def _read(path: Path, header: Header, module: Module) -> _One:
    try:
        with path.open("rb") as file:
            raw = {
                role: Tensor(
                    header.tensors[name].dtype,
                    header.tensors[name].shape,
                    read_tensor(file, header, name),
                )
                for role, name in module.tensors.items()
            }
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    kept = raw.pop("alpha", None)
    alpha = module.scale * module.rank
    if kept is not None:
        alpha = scalar(path, header, module.tensors["alpha"], kept.data)
    return _One(module, raw, alpha, kept)


def _check(path: Path, ones: list[_One], to: Dialect) -> None:
    for one in ones:
        name = one.module.name
        if one.module.decomposed and not _by_rows(one):
            raise wrong(
                path,
                f"is a DoRA of columns ({name}), which only A1111 reads so: converted, it would be "
                "another LoRA. `lora resize --base` makes a plain one of it",
            )
        fitting = one.module.kind == "lora" and not one.tensors.keys() - _PAIRS
        if to == "peft" and one.module.kind in _PEFT_TYPES and not one.module.decomposed:
            alike = {other.module.kind for other in ones} == {one.module.kind}
            fitting = alike and not one.tensors.keys() & {"hada_t1", "hada_t2", "lokr_t2"}
        if to != "kohya" and not fitting:
            raise wrong(
                path,
                f"holds more than plain pairs ({name}), for which {to} has no names. "
                "`lora resize` makes plain pairs of it",
            )


def _by_rows(one: _One) -> bool:
    """Whether a DoRA has a norm for each output, as PEFT's always do."""
    scale, up = one.tensors.get("magnitude"), one.tensors.get("up")
    return "rows" in one.tensors or (
        scale is not None
        and up is not None
        and scale.shape[0] == math.prod(scale.shape) == up.shape[0]
    )


def _magnitude(one: _One, to: Dialect) -> dict[str, Tensor]:
    """A DoRA's magnitudes in a dialect's shape: kohya's (out, 1, …); PEFT's (out,), and for
    convolutions (1, out, 1, 1)."""
    kept = one.tensors.get("magnitude") or one.tensors.get("rows")
    if kept is None:
        return {}
    out, more = max(kept.shape), len(one.tensors["down"].shape) - 2
    shape = (out, 1, *[1] * more) if to == "kohya" else (1, out, *[1] * more) if more else (out,)
    return {"magnitude" if to == "kohya" else "rows": msgspec.structs.replace(kept, shape=shape)}


def _kohya(
    header: Header, ones: list[_One], entry: Mapping[str, Any], out: Path
) -> dict[Path, bytes]:
    sdxl = is_sdxl(header)
    dtype, _, shape = header.metadata.get(_ALPHA, "F32 []").partition(" ")
    tensors = {}
    for one in ones:
        name = to_kohya(one.module.name, sdxl=sdxl)
        if sdxl and not one.module.name.startswith("lora_"):
            name = to_original(name)
        pairs = {r: t for r, t in one.tensors.items() if r not in ("magnitude", "rows")}
        for role, tensor in (pairs | _magnitude(one, "kohya")).items():
            tensors[f"{name}{kohya_ending(role)}"] = tensor
        if (alpha := one.alpha_tensor) is None and one.module.rank:
            alpha = _packed(one.alpha, dtype, shape)
        if alpha is not None:
            tensors[f"{name}.alpha"] = alpha
    ranks, alphas = ({one.module.rank for one in ones}, {one.alpha for one in ones})
    changes = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(*ranks) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(*alphas) if len(alphas) == 1 else "Dynamic",
    }
    known = {key: header.metadata.get(key, value) for key, value in changes.items()}
    metadata = _metadata(header, entry, "kohya", known)
    return {out: encode(tensors, provenance.hashed(tensors, metadata))}


def _dotted(
    path: Path, header: Header, ones: list[_One], entry: Mapping[str, Any], out: Path, *, peft: bool
) -> dict[Path, bytes]:
    parts: dict[str, dict[str, _One]] = {}
    for one in ones:
        name = to_dotted(one.module.name)
        if name is None or "." not in name:
            raise wrong(
                path, f"adapts {one.module.name}, for which the other dialects have no name"
            )
        part, _, inside = name.partition(".")
        parts.setdefault(part, {})[inside] = one
    configs = {part: _config(modules, header) for part, modules in parts.items()}
    changes = {"format": "pt"} | _alphas(ones)
    files: dict[Path, bytes] = {}
    whole: dict[str, Tensor] = {}
    for part, modules in parts.items():
        start = "base_model.model." if peft else f"{part}."
        tensors = {
            f"{start}{inside}{_ENDS.get(role, f'.{role}')}": tensor
            for inside, one in modules.items()
            for role, tensor in (one.tensors | _magnitude(one, "peft")).items()
            if role != "magnitude"
        }
        whole |= tensors
        if peft:
            folder = out if len(parts) == 1 else out / part
            metadata = _metadata(header, entry, "peft", changes)
            files[folder / IN_FOLDER] = encode(tensors, metadata)
            lora = {} if "peft_type" in configs[part] else {"peft_type": "LORA", "bias": "none"}
            config = lora | configs[part]
            text = json.dumps(config, indent=2, sort_keys=True)
            files[folder / "adapter_config.json"] = f"{text}\n".encode()
    if not peft:
        flat = {f"{part}.{key}": v for part, config in configs.items() for key, v in config.items()}
        changes[_CONFIG] = json.dumps(flat, sort_keys=True)
        files[out] = encode(whole, _metadata(header, entry, "diffusers", changes))
    return files


def _config(modules: Mapping[str, _One], header: Header) -> dict[str, Any]:
    """A ``peft.LoraConfig`` (or LoHa's or LoKr's) of these modules: the commonest rank and alpha,
    and who differs."""
    if (kind := next(iter(modules.values())).module.kind) != "lora":
        return _lycoris(modules, kind, header)
    rank = Counter(one.module.rank for one in modules.values()).most_common(1)[0][0]
    alpha = Counter(one.alpha for one in modules.values()).most_common(1)[0][0]
    decomposed = any(one.module.decomposed for one in modules.values())
    return {
        **({"use_dora": True} if decomposed else {}),
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(modules),
        "rank_pattern": {n: o.module.rank for n, o in modules.items() if o.module.rank != rank},
        "alpha_pattern": {n: o.alpha for n, o in modules.items() if o.alpha != alpha},
    }


def _lycoris(modules: Mapping[str, _One], kind: str, header: Header) -> dict[str, Any]:
    """Of a LoKr's whole matrices peft takes a rank of at least half their size, and the scale 1
    that they have is an alpha as large."""
    sizes = {}
    for name, one in modules.items():
        whole = 0 if one.module.rank else -(-max(one.tensors["lokr_w2"].shape) // 2)
        sizes[name] = (one.module.rank or whole, one.alpha if one.module.rank else whole)
    (rank, alpha), _ = Counter(sizes.values()).most_common(1)[0]
    config: dict[str, Any] = {
        "peft_type": _PEFT_TYPES[kind],
        "r": rank,
        "alpha": alpha,
        "target_modules": sorted(modules),
        "rank_pattern": {name: r for name, (r, _) in sizes.items() if r != rank},
        "alpha_pattern": {name: a for name, (_, a) in sizes.items() if a != alpha},
    }
    if kind == "lokr":
        try:
            made = json.loads(header.metadata.get("ss_network_args", "{}"))
            config["decompose_factor"] = int(made.get("factor", -1))
        except (ValueError, TypeError, AttributeError):
            config["decompose_factor"] = -1
        both = any("lokr_w1_a" in one.tensors for one in modules.values())
        config["decompose_both"] = both
    return config


def _alphas(ones: list[_One]) -> dict[str, str]:
    """How a kohya file wrote its alphas, if all alike."""
    kinds = {(o.alpha_tensor.dtype, o.alpha_tensor.shape) for o in ones if o.alpha_tensor}
    if len(kinds) != 1 or not all(one.alpha_tensor for one in ones):
        return {}
    ((dtype, shape),) = kinds
    return {_ALPHA: f"{dtype} {json.dumps(shape)}"}


def _packed(alpha: float, dtype: str, shape: str) -> Tensor:
    wide = (1,) if shape == "[1]" else ()
    if dtype == "BF16":  # the upper half of a float32; what came from one has nothing below
        return Tensor("BF16", wide, struct.pack("<f", alpha)[2:])
    dtype = dtype if dtype in PACKED else "F32"
    return Tensor(dtype, wide, struct.pack(PACKED[dtype], int(alpha) if dtype[0] == "I" else alpha))


def _metadata(
    header: Header, entry: Mapping[str, Any], to: str, changes: Mapping[str, str]
) -> dict[str, str]:
    kept = provenance.derived([(header.metadata, entry)], {"how": f"converted to {to}"}, changes)
    for stale in {_CONFIG, _ALPHA, "format"} - changes.keys():
        kept.pop(stale, None)
    return kept
