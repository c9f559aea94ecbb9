"""What the LoRA-able modules are called: a table of module paths and their names in LoRA files.

The names are kohya's, the ones every tool reads. They come from this table and not from attribute
names, because those move: since transformers 5.24 ``CLIPTextModel`` has no ``text_model.`` prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_daemon import original_layout
from lora_daemon.families import Family, Network
from lora_daemon.original_layout import SPANS, Row, per_block

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_GROUPS: Mapping[str, tuple[str, ...]] = {  # the recipe's names for several path endings
    "ff": ("ff.net.0.proj", "ff.net.2"),
    "proj": ("proj_in", "proj_out"),
    "conv": (
        "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv",
        "upsamplers.0.conv",
    ),
}  # fmt: skip

_FLUX_GROUPS: Mapping[str, tuple[str, ...]] = {  # of a picture's stream, of the text's, of both
    "to_q": ("attn.to_q", "attn.add_q_proj"),
    "to_k": ("attn.to_k", "attn.add_k_proj"),
    "to_v": ("attn.to_v", "attn.add_v_proj"),
    "to_out.0": ("attn.to_out.0", "attn.to_add_out"),
    "ff": ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp",
           "proj_out"),
    "mod": ("norm1.linear", "norm1_context.linear", "norm.linear"),
}  # fmt: skip
GROUPS: Mapping[Network, Mapping[str, tuple[str, ...]]] = {
    "unet": _GROUPS, "transformer": _FLUX_GROUPS,
}  # fmt: skip

# Inside one transformer block of the UNet.
_BLOCK = (
    "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
    "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
    "ff.net.0.proj", "ff.net.2",
)  # fmt: skip
# Inside one layer of CLIP's text encoder.
_TEXT = {
    "self_attn.q_proj": "self_attn_q_proj",
    "self_attn.k_proj": "self_attn_k_proj",
    "self_attn.v_proj": "self_attn_v_proj",
    "self_attn.out_proj": "self_attn_out_proj",
    "mlp.fc1": "mlp_fc1",
    "mlp.fc2": "mlp_fc2",
}


def denoiser_names(family: Family, config: Mapping[str, Any]) -> dict[str, str]:
    """Module path → name in LoRA files for every LoRA-able module of a family's denoiser."""
    if family.denoiser == "unet":
        return unet_names(config, family.original_lora_names)
    return flux_names(config)


def flux_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Module path → kohya name for FLUX's transformer, in the words of the original code, which has
    one matrix where diffusers has several modules: these are told apart behind a dot, as ``.q``.
    kohya's 304 modules are 494 here.
    """
    return {
        row.diffusers.removesuffix(".weight"): _fused(row)
        for row in original_layout.flux(config)
        if row.original.endswith(".weight") and "_blocks." in row.diffusers
    }


def _fused(row: Row) -> str:
    name = f"lora_unet_{row.original.removesuffix('.weight').replace('.', '_')}"
    return f"{name}.{row.form}" if row.form in SPANS else name


def unet_names(config: Mapping[str, Any], original: bool = False) -> dict[str, str]:
    """Module path → kohya name for every LoRA-able module of a UNet, in the UNet's order.

    ``config``: the UNet's diffusers configuration. ``original``: in the words of the original code,
    as SDXL's LoRAs have them. SD 1.x and 2.x give 192 names, and 86 of convolutions; SDXL 722, and
    66 of convolutions.
    """
    paths = []
    for path, depth in _transformers(config):
        paths.append(f"{path}.proj_in")
        paths += [f"{path}.transformer_blocks.{n}.{tail}" for n in range(depth) for tail in _BLOCK]
        paths.append(f"{path}.proj_out")
    paths += _convolutions(config)
    if original:
        known = {row.diffusers: row.original for row in original_layout.unet(config)}
        words = [known[f"{path}.weight"].removesuffix(".weight") for path in paths]
    else:
        words = paths
    return {
        path: f"lora_unet_{word.replace('.', '_')}" for path, word in zip(paths, words, strict=True)
    }


def _convolutions(config: Mapping[str, Any]) -> Iterator[str]:
    """Paths in the residual blocks, and between blocks of other resolutions."""
    widths = list(config["block_out_channels"])
    depths = per_block(config["layers_per_block"], len(widths))
    last, below = len(widths) - 1, [widths[0]]  # widths of what the up blocks get from below
    width = widths[0]
    for block, own in enumerate(widths):
        for layer in range(depths[block]):
            yield from _resnet(f"down_blocks.{block}.resnets.{layer}", shortcut=width != own)
            width = own
            below.append(own)
        if block < last:
            yield f"down_blocks.{block}.downsamplers.0.conv"
            below.append(own)
    for layer in range(2):
        yield from _resnet(f"mid_block.resnets.{layer}", shortcut=False)
    for block, own in enumerate(reversed(widths)):
        for layer in range(depths[last - block] + 1):
            joined, width = width + below.pop(), own
            yield from _resnet(f"up_blocks.{block}.resnets.{layer}", shortcut=joined != own)
        if block < last:
            yield f"up_blocks.{block}.upsamplers.0.conv"


def _resnet(path: str, *, shortcut: bool) -> Iterator[str]:
    for part in ("conv1", "time_emb_proj", "conv2", *(["conv_shortcut"] if shortcut else [])):
        yield f"{path}.{part}"


def text_names(layers: int, prefix: str, start: str = "lora_te") -> dict[str, str]:
    """Module path → kohya name for a CLIP text encoder, OpenCLIP's too.

    ``prefix``: what this version of transformers puts before ``encoder``. ``start``: of the names,
    ``lora_te1`` and ``lora_te2`` for SDXL. SD 1.5's 12 layers give 72 names, SD 2's 23 give 138.
    """
    words = f"{start}_text_model_encoder_layers"
    return {
        f"{prefix}encoder.layers.{layer}.{tail}": f"{words}_{layer}_{name}"
        for layer in range(layers)
        for tail, name in _TEXT.items()
    }


def targeted(
    names: Mapping[str, str], targets: Sequence[str],
    groups: Mapping[str, tuple[str, ...]] = _GROUPS,
) -> dict[str, str]:  # fmt: skip
    """The rows of a table that the recipe's ``targets``, such as ``to_q`` or ``ff``, mean."""
    ends = tuple(f".{end}" for target in targets for end in groups.get(target, (target,)))
    return {path: name for path, name in names.items() if path.endswith(ends)}


def _transformers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Path and depth of each transformer. Up blocks have one more of them than down blocks."""
    down, up = config["down_block_types"], config["up_block_types"]
    layers = per_block(config["layers_per_block"], len(down))
    depths = per_block(config.get("transformer_layers_per_block", 1), len(down))
    for block, kind in enumerate(down):
        for layer in range(layers[block] if "CrossAttn" in kind else 0):
            yield f"down_blocks.{block}.attentions.{layer}", depths[block]
    yield "mid_block.attentions.0", depths[-1]
    for block, kind in enumerate(up):
        for layer in range(layers[-1 - block] + 1 if "CrossAttn" in kind else 0):
            yield f"up_blocks.{block}.attentions.{layer}", depths[-1 - block]


def diffusers_name(prefix: str, path: str) -> str:
    """The kohya name of a module that is in no table, as kohya forms it from a diffusers path."""
    return f"{prefix}_{path.replace('.', '_')}"
