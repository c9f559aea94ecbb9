"""LoRA files into one: ``lora-tui lora merge`` and ``resize`` run this as a process of its own.

``python -m lora_daemon.engine.merge`` takes a ``shared.lora_orders.MergeOrder`` in JSON on stdin.
On stdout come lines of ``Advance``, and at last one ``Merged`` or a ``Failure``. A base is needed
for a DoRA alone.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lora_daemon.engine  # noqa: F401  before torch: it says how torch's threads wait

# isort: split
import msgspec
import torch
from torch import Tensor

from lora_daemon.engine import bases, lora_file
from lora_daemon.engine import low_rank as algebra
from lora_daemon.engine.bases import Base
from lora_daemon.engine.device import explained, use_threads
from lora_daemon.engine.lora_read import Read, raw, read_modules
from lora_daemon.engine.low_rank import Pair
from lora_daemon.engine.mix import whole_delta
from lora_daemon.engine.moments import CHANCE, Reader
from lora_daemon.engine.parts import Dense, low_rank
from shared import provenance
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.lora_keys import contents, wrong
from shared.lora_names import dotted, is_sdxl, to_diffusers, to_kohya
from shared.lora_orders import PRECISIONS, Advance, Merged, MergedModule, MergeOrder, Source
from shared.safetensors_file import Tensor as RawTensor
from shared.safetensors_file import read_header, write

LEARNT = ("base", "steps", "rate", "penalty", "before", "after", "overlap")  # of coefficients
_CANCELLED = 1e-9  # what is left of a sum, relative to its terms, when they cancel


@dataclass(frozen=True)
class Piece:
    """One file's share of one module: ``factor`` (weight and scale) times ``up`` · ``down``."""

    source: int  # of the order's
    file: Path
    name: str  # as the file has it, in kohya's dialect
    factor: float
    up: Tensor  # (out, r)
    down: Tensor  # (r, in · kernel)
    shape: tuple[int, ...]  # (in, *kernel)


def main() -> None:
    """Obey the order on stdin."""
    use_threads()
    try:
        _tell(merge(msgspec.json.decode(sys.stdin.buffer.read(), type=MergeOrder)))
    except Exception as error:
        _tell(explained(error).failure())


@torch.no_grad()
def merge(order: MergeOrder) -> Merged:
    """Make the file. Raises LoraError: NOT_FOUND, STORAGE, or INVALID_FILE naming the source that
    cannot be merged (a DoRA without its base, biases, another base's widths, all that cannot be
    read)."""
    base = bases.load(Path(typed(order.base)), torch.device("cpu")) if order.base else None
    pieces: dict[str, list[Piece]] = {}
    sources, dtypes, notes = [], set(), []
    measured = Reader(Path(typed(order.inputs))) if order.inputs else None
    learnt = Reader(Path(typed(order.columns))) if order.method == "ziplora" else None
    for number, source in enumerate(order.sources):
        path = Path(typed(source.path))
        header = read_header(path)
        found = contents(path, header)
        if found.unknown:
            notes.append(f"{path.name}: {_listed(found.unknown)} left out: no part of a LoRA.")
        for piece in _pieces(number, path, source, base):
            pieces.setdefault(to_diffusers(piece.name), []).append(piece)
        dtypes |= {header.tensors[module.matrix].dtype for module in found.modules}
        sources.append((header.metadata, _entry(path, source)))
    dtype = PRECISIONS[order.precision] if order.precision else _widest(dtypes)
    tensors: dict[str, RawTensor] = {}
    modules, lost, whole, gross = [], 0.0, 0.0, 0.0
    total = len(pieces)
    unet = [(common, one.name) for common, shares in pieces.items() for one in shares
            if common.startswith("lora_unet_")]  # fmt: skip
    alike = len({common == name for common, name in unet}) < 2
    for number, common in enumerate(sorted(pieces)):
        together = _fitting(pieces.pop(common))
        if order.method == "orthogonal" and together[0].source:  # the first has no part in it
            continue
        name = together[0].name if alike else common  # never two ways of naming in one file
        pairs = [(one.up.double() * one.factor, one.down.double()) for one in together]
        gross += sum(algebra.norm(pair) ** 2 for pair in pairs)
        if order.method == "orthogonal":
            pairs = [_beside(order, together, pairs, measured)]
        if learnt is not None:
            pairs = _zipped(learnt, together, pairs)
        pair, wanted = _made(order, name, pairs)
        saved = _kept(tensors, name, pair, together[0], dtype)
        size, off = _sizes(wanted, saved)
        lost, whole = lost + off**2, whole + size**2
        modules.append(MergedModule(name=name, rank=len(saved[1]), error=off / size if size else 0))
        _tell(Advance(done=number + 1, total=total))
    if whole <= gross * _CANCELLED**2:
        raise LoraError(Code.BAD_REQUEST, "Nothing is left: every weight is 0, or they cancel.")
    metadata = _metadata(order, sources, modules)
    size = write(Path(typed(order.out)), tensors, provenance.hashed(tensors, metadata))
    return Merged(
        path=order.out, size=size, modules=modules, error=(lost / whole) ** 0.5, notes=notes
    )


def _pieces(number: int, path: Path, source: Source, base: Base | None) -> Iterator[Piece]:
    header = read_header(path)
    found = contents(path, header)
    sdxl = is_sdxl(header)
    for one in read_modules(path, header, found):
        if "bias" in one.extras:
            raise wrong(path, f"changes biases ({one.module.name}), which a LoRA file cannot hold")
        name = to_kohya(one.module.name, sdxl=sdxl)
        weight = source.weight
        if name.startswith("lora_te") and source.text_weight is not None:
            weight = source.text_weight
        pair, scale = low_rank(one.part), one.scale
        if one.module.decomposed:
            pair, scale = low_rank(Dense(_of_dora(path, one, base))), 1.0
        shape = tuple(pair.down.shape[1:])
        yield Piece(number, path, name, weight * scale, pair.up, pair.down.flatten(1), shape)


def _of_dora(path: Path, one: Read, base: Base | None) -> Tensor:
    """What a DoRA adds to its base, as one matrix."""
    if base is None:
        raise wrong(
            path,
            f"is a DoRA ({one.module.name}): what it adds depends on its base. Say which with "
            "--base, or use it beside the others with `generate --lora`",
        )
    placed = lora_file.placed(path, base, one)
    if placed is None:
        raise wrong(path, f"does not belong on this base, which has no {one.module.name}")
    weight = getattr(base, placed.network).get_submodule(placed.path).weight
    return whole_delta(placed, weight).float()


def _fitting(pieces: list[Piece]) -> list[Piece]:
    """The shares of one module, if they are of one size."""
    first = pieces[0]
    for other in pieces[1:]:
        sizes = [(one.down.shape[1], len(one.up)) for one in (first, other)]
        if sizes[0] != sizes[1]:
            raise wrong(
                other.file,
                f"and {first.file} are for different bases: {first.name} is "
                f"{sizes[1][0]} → {sizes[1][1]} wide in the one, {sizes[0][0]} → {sizes[0][1]} in "
                "the other",
            )
    return pieces


def _made(order: MergeOrder, name: str, pairs: list[Pair]) -> tuple[Pair, Pair | Tensor]:
    """A module's pair, and what it stands for."""
    together = algebra.concatenated(pairs)
    plain = order.method in ("orthogonal", "ziplora") and not (order.rank or order.error)
    if order.method == "exact" or plain:
        return together, together
    if order.method in ("svd", "orthogonal", "ziplora"):
        return algebra.truncated(together, order.rank, order.error), together
    digest = hashlib.sha256(f"{order.seed}/{name}".encode()).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    deltas = [(up @ down).float() for up, down in pairs]
    if order.method == "ties":
        delta = algebra.ties(deltas, order.density)
    else:
        delta = algebra.dare(deltas, order.density, draw)
    rank = order.rank or (0 if order.error else together[0].shape[1])
    up, down = algebra.factored(delta, rank, order.error, draw)
    return (up.double(), down.double()), delta


def _beside(
    order: MergeOrder, pieces: list[Piece], pairs: list[Pair], measured: Reader | None
) -> Pair:  # fmt: skip
    """The first source's pair of a module, orthogonal to the others'."""
    first, *others = [(piece, pair) for piece, pair in zip(pieces, pairs, strict=True)
                      if piece.factor or not piece.source]  # fmt: skip
    if not others:
        return first[1]
    own = first[1]
    rest = torch.cat([up for _, (up, _) in others], 1), torch.cat([down for _, (_, down) in others])
    there = [first[0], *(piece for piece, _ in others)]
    found = None
    if measured is not None:
        ranks = [(order.order[piece.source], len(piece.down)) for piece in there]
        found = measured.of(dotted(first[0].name, sdxl=True) or first[0].name, ranks)
    if found is None:
        return algebra.beside(own, rest, own[1] @ rest[1].t(), rest[1] @ rest[1].t())
    begin = CHANCE + len(own[1])
    return algebra.beside(own, rest, found[CHANCE:begin, begin:], found[begin:, begin:])


def _zipped(learnt: Reader, pieces: list[Piece], pairs: list[Pair]) -> list[Pair]:
    """ΔWᵢ diag(mᵢ), exactly: what was learnt scales the columns of each Aᵢ. A module of which
    nothing was learnt, such as a text encoder's, stays as it is."""
    name = pieces[0].name
    found = learnt.read(dotted(name, sdxl=True) or name)
    if found is None:
        return pairs
    made = []
    for piece, (up, down) in zip(pieces, pairs, strict=True):
        columns = found[piece.source]
        taps, rest = divmod(down.shape[1], len(columns))  # of a convolution's kernel
        if rest:
            raise wrong(learnt.path, f"does not fit {name}: delete it, and learn again")
        made.append((up, down * columns.repeat_interleave(taps)))
    return made


def _kept(
    tensors: dict[str, RawTensor], name: str, pair: Pair, like: Piece, dtype: str
) -> Pair:  # fmt: skip
    """Enter a module's tensors; returns the pair as it will be read back."""
    up, down = pair
    rank = len(down)
    ones = (1,) * (len(like.shape) - 1)
    kept = {
        f"{name}.lora_up.weight": raw(up.reshape(*up.shape, *ones), dtype),
        f"{name}.lora_down.weight": raw(down.reshape(rank, *like.shape), dtype),
    }
    tensors |= kept | {f"{name}.alpha": raw(torch.tensor(float(rank)))}
    back = [_back(one).flatten(1).double() for one in kept.values()]
    if not all(bool(torch.isfinite(one).all()) for one in back):
        raise LoraError(
            Code.BAD_REQUEST, f"{name} does not fit {dtype}; take --precision fp32 or bf16."
        )
    return back[0], back[1]


def _back(kept: RawTensor) -> Tensor:
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return torch.frombuffer(bytearray(kept.data), dtype=kinds[kept.dtype]).reshape(kept.shape)


def _sizes(wanted: Pair | Tensor, saved: Pair) -> tuple[float, float]:
    """‖wanted‖ and ‖saved − wanted‖."""
    if isinstance(wanted, Tensor):
        exact = wanted.double()
        return float(exact.norm()), float((saved[0] @ saved[1] - exact).norm())
    return algebra.norm(wanted), algebra.difference(wanted, saved)


def _widest(dtypes: set[str]) -> str:
    known = sorted(dtypes & {"F16", "BF16"}) if not dtypes & {"F32", "F64"} else ["F32"]
    return known[0] if len(known) == 1 else "F32"


def _entry(path: Path, source: Source) -> dict[str, str | float]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    text = {} if source.text_weight is None else {"text_weight": source.text_weight}
    name = to_text(path.name)
    return {"name": name, "sha256": digest.hexdigest(), "weight": source.weight, **text}


def _metadata(
    order: MergeOrder, sources: list[tuple[dict[str, str], dict[str, str | float]]],
    modules: list[MergedModule],
) -> dict[str, str]:  # fmt: skip
    ranks = Counter(module.rank for module in modules)
    ((rank, _),) = ranks.most_common(1)
    title = to_text(Path(typed(order.out)).stem)
    how: dict[str, str | float] = {"how": order.method, "tool": "lora-tui"}
    if order.method == "orthogonal":
        how |= {"weighed": "inputs of the base" if order.inputs else "all inputs alike"}
    if order.method == "ziplora":
        said = read_header(Path(typed(order.columns))).metadata
        how |= {f"learnt {name}": said.get(name, "") for name in LEARNT}
    if order.method != "exact":
        how |= {"rank": order.rank, "error": order.error}
    if order.method in ("ties", "dare"):
        how |= {"density": order.density, "seed": order.seed}
    changes = {
        "ss_output_name": title,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(float(rank)) if len(ranks) == 1 else "Dynamic",
        "modelspec.title": title,
    }
    return provenance.derived(sources, how, changes)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _tell(message: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
