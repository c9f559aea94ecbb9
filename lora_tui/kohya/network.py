"""Kohya's network: its module, LyCORIS's algorithms, ranks and rates of its blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_tui.kohya import tables
from lora_tui.kohya.files import arguments
from lora_tui.kohya.report import Translation

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_LINEAR = [*_ATTENTION, "ff", "proj"]  # what kohya's LoRA trains
_PRESETS = {
    "full": [*_LINEAR, "conv"], "full-lin": _LINEAR, "attn-mlp": _LINEAR, "attn-only": _ATTENTION,
}  # fmt: skip
_MOST = 1024  # as large as network.rank can be: a LoKr's matrices are whole long before
# SD 1.x's and 2.x's blocks in kohya's order, and which of them have attention.
_BLOCKS = [*(f"IN{n:02d}" for n in range(12)), "M00", *(f"OUT{n:02d}" for n in range(12))]
_ATTENDING = {
    "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", *(f"OUT{n:02d}" for n in range(3, 12)),
}  # fmt: skip


def network(left: dict[str, Any], out: Translation) -> None:
    """What is trained. Comes after the options that have the same meaning here."""
    module = left.pop("network_module", "networks.lora")
    given = arguments(left.pop("network_args", []))
    if module == "lycoris.kohya":
        targets = _lycoris(given, out)
    elif module == "networks.lora":
        out.idle("network_module", module, "LoRA on the linear layers, as kohya's")
        targets = [*_LINEAR]
        if given.get("conv_dim"):
            targets.append("conv")
        _blocks(given, out, plain=not given.get("conv_dim"))
    else:
        out.leave("network_module", module, "a plain LoRA is trained in its place")
        targets = [*_LINEAR]
    if "conv" in targets:
        out.convert("conv_dim", given.pop("conv_dim"), "network.conv_rank")
        out.convert("conv_alpha", given.pop("conv_alpha", 1.0), "network.conv_alpha")
    out.put("network.targets", targets)
    for name in ("loraplus_lr_ratio", "loraplus_unet_lr_ratio"):
        if name in given:
            out.convert(name, given.pop(name), "optimizer.lora_plus")
    for name in ("dropout", "rank_dropout", "module_dropout"):  # the first before network_dropout
        if name in given:
            out.convert(f"network_args {name}", given.pop(name), f"network.{name}")
    for name, value in given.items():
        if not value or str(value).lower() == "false":
            out.idle(f"network_args {name}", value, "off")
        else:
            why = tables.NETWORK_ARGS.get(name, "lora-tui does not know it")
            out.leave(f"network_args {name}", value, why)
    _of_plain_loras(out)


def _lycoris(given: dict[str, Any], out: Translation) -> list[str]:
    """The targets of a LyCORIS network; enters its kind."""
    algo = str(given.pop("algo", "lora")).lower()
    known = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}.get(algo)
    kind = known or "lora"
    if known is None:
        out.leave("network_args algo", algo, "a plain LoRA is trained in its place")
    if _true(given.get("dora_wd")) and kind == "lora":
        rows = given.pop("wd_on_output", True)
        out.take("network_args dora_wd", given.pop("dora_wd"), "network.kind", "dora")
        if not _true(rows):
            out.leave("network_args wd_on_output", rows, "the norms are those of each output")
    else:
        given.pop("wd_on_output", None)
        if known is not None:
            out.take("network_args algo", algo, "network.kind", kind)
    if kind == "lokr":
        factor = given.pop("factor", -1)
        out.convert("factor", max(0, factor) if type(factor) is int else 0, "network.factor")
        if "decompose_both" in given:
            both = _true(given.pop("decompose_both"))
            out.convert("decompose_both", both, "network.decompose_both")
        whole = _true(given.pop("full_matrix", False)) or out.tree["network"].get("rank", 4) > _MOST
        if whole:
            out.take("full_matrix", True, "network.rank", _MOST, "large enough for whole matrices")
    preset = str(given.pop("preset", "full")).lower()
    targets = _PRESETS.get(preset)
    if targets is None:
        out.leave("network_args preset", preset, "see network.targets; all is trained")
        targets = _PRESETS["full"]
    else:
        out.take("network_args preset", preset, "network.targets", targets)
    if "conv" in targets:
        given["conv_dim"] = min(_MOST, given.get("conv_dim") or out.tree["network"].get("rank", 4))
        given.setdefault("conv_alpha", out.tree["network"].get("alpha", 1.0))
    return [*targets]


def _blocks(given: dict[str, Any], out: Translation, *, plain: bool) -> None:
    """Ranks and rates of SD 1.x's and 2.x's blocks. ``plain``: without convolutions."""
    if not plain or out.tree.get("base", {}).get("family") == "sdxl":
        return
    alpha = out.tree["network"].get("alpha", 1.0)
    dims, alphas = given.get("block_dims"), given.get("block_alphas", [alpha] * len(_BLOCKS))
    if _numbers(dims, len(_BLOCKS)) and _numbers(alphas, len(_BLOCKS)):
        own = zip(_BLOCKS, given.pop("block_dims"), alphas, strict=True)
        entries = [f"{name}={int(rank)}/{a:g}" for name, rank, a in own if name in _ATTENDING]
        out.take("network_args block_dims", dims, "network.ranks", entries)
        if given.pop("block_alphas", None):
            out.idle("network_args block_alphas", alphas, "in network.ranks")
    rates = list(_rates(given))
    if rates:
        out.put("optimizer.rates", rates)


def _rates(given: dict[str, Any]) -> Iterator[str]:
    for key, names in (
        ("down_lr_weight", _BLOCKS[:12]), ("mid_lr_weight", ["M00"]),
        ("up_lr_weight", _BLOCKS[13:]),
    ):  # fmt: skip
        value = given.get(key)
        values = value if isinstance(value, list) else [value]
        if _numbers(values, len(names)):
            del given[key]
            pairs = zip(names, values, strict=True)
            yield from (f"{name}={rate:g}" for name, rate in pairs if name in _ATTENDING)


def _of_plain_loras(out: Translation) -> None:
    """Take out what is read of a plain LoRA alone."""
    kind = out.tree["network"].get("kind", "lora")
    for key in ("dropout", "rank_dropout", "max_norm") if kind != "lora" else ():
        out.take_back(f"network.{key}", f"of a plain LoRA alone, not of a {kind}")


def _numbers(value: Any, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(type(one) in (int, float) and 0 <= one <= _MOST for one in value)
    )


def _true(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "1")
