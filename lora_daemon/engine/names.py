"""What the LoRA-able modules are called: a table of module paths and their names in LoRA files.

The names are kohya's, the ones every tool reads. They come from this table and not from attribute
names, because those move: since transformers 5.24 ``CLIPTextModel`` has no ``text_model.`` prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_GROUPS = {  # the recipe's names for several path endings
    "ff": ("ff.net.0.proj", "ff.net.2"),
    "proj": ("proj_in", "proj_out"),
    "conv": (
        "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv",
        "upsamplers.0.conv",
    ),
}  # fmt: skip

# Inside one transformer block of the UNet.
_BLOCK = {
    "attn1.to_q": "attn1_to_q",
    "attn1.to_k": "attn1_to_k",
    "attn1.to_v": "attn1_to_v",
    "attn1.to_out.0": "attn1_to_out_0",
    "attn2.to_q": "attn2_to_q",
    "attn2.to_k": "attn2_to_k",
    "attn2.to_v": "attn2_to_v",
    "attn2.to_out.0": "attn2_to_out_0",
    "ff.net.0.proj": "ff_net_0_proj",
    "ff.net.2": "ff_net_2",
}
# Inside one layer of CLIP's text encoder.
_TEXT = {
    "self_attn.q_proj": "self_attn_q_proj",
    "self_attn.k_proj": "self_attn_k_proj",
    "self_attn.v_proj": "self_attn_v_proj",
    "self_attn.out_proj": "self_attn_out_proj",
    "mlp.fc1": "mlp_fc1",
    "mlp.fc2": "mlp_fc2",
}


def unet_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Module path → kohya name for every LoRA-able module of an SD 1.x UNet, in the UNet's order.

    ``config``: the UNet's diffusers configuration. SD 1.5 gives 192 names, and 86 of convolutions.
    """
    names = {}
    for path, name in _transformers(config):
        names[f"{path}.proj_in"] = f"{name}_proj_in"
        for depth in range(int(config.get("transformer_layers_per_block", 1))):
            for tail, short in _BLOCK.items():
                whole = f"{name}_transformer_blocks_{depth}_{short}"
                names[f"{path}.transformer_blocks.{depth}.{tail}"] = whole
        names[f"{path}.proj_out"] = f"{name}_proj_out"
    return names | {path: f"lora_unet_{path.replace('.', '_')}" for path in _convolutions(config)}


def _convolutions(config: Mapping[str, Any]) -> Iterator[str]:
    """Paths in the residual blocks, and between blocks of other resolutions."""
    widths = list(config["block_out_channels"])
    layers = config["layers_per_block"]
    depths = [layers] * len(widths) if isinstance(layers, int) else list(layers)
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


def text_names(layers: int, prefix: str) -> dict[str, str]:
    """Module path → kohya name for CLIP's text encoder. ``prefix``: what this version of
    transformers puts before ``encoder``. SD 1.5's 12 layers give 72 names."""
    start = "lora_te_text_model_encoder_layers"
    return {
        f"{prefix}encoder.layers.{layer}.{tail}": f"{start}_{layer}_{name}"
        for layer in range(layers)
        for tail, name in _TEXT.items()
    }


def targeted(names: Mapping[str, str], targets: Sequence[str]) -> dict[str, str]:
    """The rows of a UNet table that the recipe's ``targets``, such as ``to_q`` or ``ff``, mean."""
    ends = tuple(f".{end}" for target in targets for end in _GROUPS.get(target, (target,)))
    return {path: name for path, name in names.items() if path.endswith(ends)}


def _transformers(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and name of each transformer. Up blocks have one more of them than down blocks."""
    layers = config["layers_per_block"]
    down, up = config["down_block_types"], config["up_block_types"]
    per_block = [layers] * len(down) if isinstance(layers, int) else list(layers)
    for block, kind in enumerate(down):
        for layer in range(per_block[block] if "CrossAttn" in kind else 0):
            yield f"down_blocks.{block}.attentions.{layer}", _name("down_blocks", block, layer)
    yield "mid_block.attentions.0", "lora_unet_mid_block_attentions_0"
    for block, kind in enumerate(up):
        for layer in range(per_block[-1 - block] + 1 if "CrossAttn" in kind else 0):
            yield f"up_blocks.{block}.attentions.{layer}", _name("up_blocks", block, layer)


def _name(blocks: str, block: int, layer: int) -> str:
    return f"lora_unet_{blocks}_{block}_attentions_{layer}"


def diffusers_name(prefix: str, path: str) -> str:
    """The kohya name of a module that is in no table, as kohya forms it from a diffusers path."""
    return f"{prefix}_{path.replace('.', '_')}"
