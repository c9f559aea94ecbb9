"""LoRA files compared at their weights: the daemon runs this as a process of its own.

``python -m lora_daemon.engine.conflict`` takes a ``shared.conflicts.ConflictOrder`` in JSON on
stdin. On stdout comes one ``Conflict`` or a ``Failure``. Only Gram matrices of the factors are
formed, never a ΔW, and a few modules a thread are in memory.
"""

from __future__ import annotations

import gc
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lora_daemon.engine  # noqa: F401  before torch: it says how torch's threads wait

# isort: split
import msgspec
import torch

from lora_daemon import base_look
from lora_daemon.engine.alike import Source, batched, stacked
from lora_daemon.engine.device import explained, use_threads
from lora_daemon.engine.moments import Reader
from lora_daemon.engine.overlap import Sum, nothing, overlaps
from shared import blocks, conflicts
from shared.conflicts import Compared, Conflict, ConflictOrder, Place
from shared.errors import Code, LoraError
from shared.filenames import typed
from shared.lora_keys import contents, wrong
from shared.lora_names import dotted, is_sdxl
from shared.pictures import stem
from shared.safetensors_file import read_header

_LAYERS = 2  # of a block, in every Stable Diffusion
_TEXT = {"text_encoder": "TE1", "text_encoder_2": "TE2"}
_STAGE = re.compile(r"^(down|up)_blocks\.(\d+)\.(?:attentions|resnets)\.(\d+)")


def main() -> None:
    """Obey the order on stdin."""
    threads = use_threads()
    gc.freeze()  # what torch brought stays: no need to look through it again and again
    torch.set_num_threads(1)  # the products are small: a module a thread, not a product all of them
    try:
        order = msgspec.json.decode(sys.stdin.buffer.read(), type=ConflictOrder)
        found: msgspec.Struct = compare(order, threads)
    except Exception as error:
        found = explained(error).failure()
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")


def compare(order: ConflictOrder, threads: int = 1) -> Conflict:
    """Compare every LoRA with every other, so many modules at a time.

    Raises LoraError: NOT_FOUND, STORAGE, INVALID_FILE naming the file, BAD_REQUEST (block weights
    without a base, or that do not fit it).
    """
    names = _names(order.loras)
    notes: list[str] = []
    sources = []
    for name, one in zip(names, order.loras, strict=True):
        file = Path(typed(one.path))
        source = Source(file, read_header(file), one)
        notes += _look(source, name)
        sources.append(source)
    _give_factors(order, sources)
    every = sorted({path for source in sources for path in source.modules})
    measured = Reader(Path(typed(order.inputs))) if order.inputs else None
    if measured is not None:
        if unknown := [path for path in every if path not in measured.header.tensors]:
            notes.append(f"{_few(unknown)} left out: not measured on the base.")
        every = [path for path in every if path in measured.header.tensors]
    layers = layers_of(every)
    sums: dict[tuple[str, str], Sum] = {}
    modules = []
    batches = list(batched(sources, every))
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda paths: _modules(sources, paths, layers, order, measured), batches)
        for path, here in zip(itertools.chain(*batches), itertools.chain(*found), strict=True):
            block, kind = where(path, layers)
            sums.setdefault((block, kind), nothing(len(sources))).add(here)
            if order.modules:
                modules.append(here.place(block=block, kind=kind, module=path))
    modules.sort(key=lambda one: one.module)
    return _told(order, names, sums, modules, layers, notes)


def where(path: str, layers: int) -> tuple[str, str]:
    """Block and kind of a module by its dotted path."""
    part, _, inside = path.partition(".")
    return _TEXT.get(part) or blocks.label(inside, layers), conflicts.kind(path)


def _look(source: Source, name: str) -> Iterable[str]:
    """Learn what can be compared of a file; what cannot is said."""
    found = contents(source.path, source.header)
    sdxl = is_sdxl(source.header)
    decomposed, unknown = 0, list(found.unknown)
    for module in found.modules:
        path = dotted(module.name, sdxl=sdxl)
        if path is None:
            unknown.append(module.name)
        elif module.decomposed:
            decomposed += 1
        elif path in source.modules:
            raise wrong(source.path, f"names {path} in two ways, as a file of two dialects does")
        elif module.tensors.keys() != {"bias"}:
            source.modules[path] = module
    if decomposed:
        yield f"{name}: {decomposed} DoRA modules left out: what they add depends on the base."
    if unknown:
        yield f"{name}: {_few(unknown)} left out: of no module that is known."
    if not source.modules:
        raise wrong(
            source.path,
            "cannot be compared: all of it is DoRA, whose change depends on the base"
            if decomposed
            else "cannot be compared: none of its modules is one of a Stable Diffusion",
        )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _modules(
    sources: Sequence[Source], paths: Sequence[str], layers: int, order: ConflictOrder,
    measured: Reader | None,
) -> list[Sum]:  # fmt: skip
    """Modules of one form, of all the LoRAs that change them."""
    there = [number for number, source in enumerate(sources) if paths[0] in source.modules]
    labels = [where(path, layers)[0] for path in paths]
    stack = stacked(sources, there, paths, labels)
    inputs = None
    if measured is not None:
        ranks = [(order.order[at], rank) for at, rank in zip(there, stack.ranks, strict=True)]
        found = [measured.of(path, ranks) for path in paths]
        inputs = torch.stack([one for one in found if one is not None])  # they are there: see above
    pairs = zip(*overlaps(stack, len(sources), inputs), strict=True)
    return [Sum(inner, touched, int(len(there) > 1)) for inner, touched in pairs]


def _give_factors(order: ConflictOrder, sources: Sequence[Source]) -> None:
    """Block weights by block. They need to know the base's blocks."""
    if not any(source.one.use.blocks for source in sources):
        return
    if not order.base:
        raise LoraError(Code.BAD_REQUEST, "Block weights (lbw=) need a base to count its blocks.")
    config = base_look.unet_config(Path(typed(order.base)))
    for source in sources:
        if source.one.use.blocks:
            source.factors = blocks.factors(source.one.use.blocks, config)


def layers_of(paths: Iterable[str]) -> int:
    """The layers a block of the UNet has, by the modules that are changed."""
    found = [match for path in paths if (match := _STAGE.match(path.removeprefix("unet.")))]
    counts = [int(match[3]) + (match[1] == "down") for match in found]
    return max(counts, default=_LAYERS) or 1


def _names(loras: Sequence[Compared]) -> list[str]:
    """Each LoRA's name, told apart where two are called alike."""
    names = [stem(one.use.lora) for one in loras]
    return [
        f"{name} ({names[: at + 1].count(name)})" if names.count(name) > 1 else name
        for at, name in enumerate(names)
    ]


def _told(
    order: ConflictOrder, names: list[str], sums: dict[tuple[str, str], Sum],
    modules: list[Place], layers: int, notes: list[str],
) -> Conflict:  # fmt: skip
    all_of_it = nothing(len(names))
    by_block: dict[str, Sum] = {}
    for (block, _), one in sums.items():
        for total in (all_of_it, by_block.setdefault(block, nothing(len(names)))):
            total.add(one)
    in_order = sorted(by_block, key=order_of)
    cells = [
        sums[block, kind].place(block=block, kind=kind)
        for block in in_order
        for kind in conflicts.KINDS
        if (block, kind) in sums
    ]
    whole = all_of_it.place()
    silent = [name for name, own in zip(names, whole.energy, strict=True) if not own]
    notes += [f"{name} does nothing at its weight." for name in silent]
    guided = [name for name, one in zip(names, order.loras, strict=True) if one.use.guidance]
    if guided:
        notes.append(
            f"Files know no guidance: {' and '.join(guided)} compared by weight alone. Trying them "
            "on the base takes guidance into account."
        )
    placed = [name for name, one in zip(names, order.loras, strict=True) if one.use.region]
    if placed:
        notes.append(
            f"Files know no places: {' and '.join(placed)} compared as if in the whole picture. "
            "Trying them on the base takes regions into account."
        )
    stages = {block: blocks.stage(block, layers) for block in in_order}
    return Conflict(
        loras=names, weights=[one.use.weight for one in order.loras], measured=bool(order.inputs),
        sentence=conflicts.sentence(names, whole, cells, stages), whole=whole,
        blocks=[by_block[block].place(block=block) for block in in_order], cells=cells,
        modules=modules, notes=notes,
    )  # fmt: skip


def order_of(block: str) -> tuple[int, str]:
    """Text encoders, what lies outside the blocks, and the denoiser from input to output."""
    order = ("TE", blocks.BASE, "IN", "M", "OUT", "D", "S")
    return next(at for at, begin in enumerate(order) if block.startswith(begin)), block


if __name__ == "__main__":
    main()
