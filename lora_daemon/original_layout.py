"""Every tensor of a base under both of its names: diffusers' and the original code's.

A base as one file has the original names, a diffusers folder has the others. The tables here follow
from a network's diffusers configuration, whatever its size, and are read either way. Names only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

# How the original tensor becomes the diffusers one: as it is; from a 1×1 convolution's (out, in, 1,
# 1) to a linear layer's (out, in); turned from (in, out); or the first, second or last third of its
# rows, where the original has q, k and v in one matrix; or, where the first layer of the
# feed-forward lies behind them (FLUX), the sevenths that SPANS says; or with its halves exchanged.
Form = Literal["same", "point", "turned", "q", "k", "v", "q/7", "k/7", "v/7", "mlp/7", "swapped"]

# Which of the original's rows such a tensor is: from, to, of so many parts.
SPANS: dict[Form, tuple[int, int, int]] = {
    "q": (0, 1, 3), "k": (1, 2, 3), "v": (2, 3, 3),
    "q/7": (0, 1, 7), "k/7": (1, 2, 7), "v/7": (2, 3, 7), "mlp/7": (3, 7, 7),
}  # fmt: skip


class Row(NamedTuple):
    """One tensor of the diffusers layout and where the original layout has it."""

    diffusers: str
    original: str
    form: Form = "same"


def unet(config: Mapping[str, Any]) -> list[Row]:
    """The UNet's table: 686 rows for SD 1.x and 2.x, 1680 for SDXL. ``config``: diffusers'."""
    widths = list(config["block_out_channels"])
    layers = per_block(config["layers_per_block"], len(widths))
    depths = per_block(config.get("transformer_layers_per_block", 1), len(widths))
    rows = [
        *_both("time_embedding.linear_1", "time_embed.0"),
        *_both("time_embedding.linear_2", "time_embed.2"),
        *_both("conv_in", "input_blocks.0.0"),
        *_both("conv_norm_out", "out.0"),
        *_both("conv_out", "out.2"),
    ]
    if config.get("addition_embed_type") == "text_time":
        rows += _both("add_embedding.linear_1", "label_emb.0.0")
        rows += _both("add_embedding.linear_2", "label_emb.0.2")
    last, width, number = len(widths) - 1, widths[0], 1
    below = [width]  # widths of what the up blocks get from the down blocks
    for block, kind in enumerate(config["down_block_types"]):
        for layer in range(layers[block]):
            here, there = f"down_blocks.{block}", f"input_blocks.{number}"
            rows += _resnet(f"{here}.resnets.{layer}", f"{there}.0", width != widths[block])
            if "CrossAttn" in kind:
                rows += _transformer(f"{here}.attentions.{layer}", f"{there}.1", depths[block])
            width = widths[block]
            below.append(width)
            number += 1
        if block < last:
            rows += _both(f"down_blocks.{block}.downsamplers.0.conv", f"input_blocks.{number}.0.op")
            below.append(width)
            number += 1
    rows += _resnet("mid_block.resnets.0", "middle_block.0", False)
    rows += _transformer("mid_block.attentions.0", "middle_block.1", depths[-1])
    rows += _resnet("mid_block.resnets.1", "middle_block.2", False)
    number = 0
    for block, kind in enumerate(config["up_block_types"]):
        own, depth = widths[last - block], depths[last - block]
        attends = "CrossAttn" in kind
        for layer in range(layers[last - block] + 1):
            here, there = f"up_blocks.{block}", f"output_blocks.{number}"
            rows += _resnet(f"{here}.resnets.{layer}", f"{there}.0", width + below.pop() != own)
            if attends:
                rows += _transformer(f"{here}.attentions.{layer}", f"{there}.1", depth)
            if layer == layers[last - block] and block < last:
                rows += _both(f"{here}.upsamplers.0.conv", f"{there}.{1 + attends}.conv")
            width = own
            number += 1
    return rows


def vae(config: Mapping[str, Any]) -> list[Row]:
    """The autoencoder's table: 248 rows for those of Stable Diffusion, 244 for FLUX's."""
    widths, layers = list(config["block_out_channels"]), int(config["layers_per_block"])
    last = len(widths) - 1
    rows: list[Row] = []
    for name in ("quant_conv", "post_quant_conv"):
        if config.get(f"use_{name}", True):
            rows += _both(name, name)
    for side in ("encoder", "decoder"):
        rows += _both(f"{side}.conv_in", f"{side}.conv_in")
        rows += _both(f"{side}.conv_norm_out", f"{side}.norm_out")
        rows += _both(f"{side}.conv_out", f"{side}.conv_out")
        for layer in range(2):
            there = f"{side}.mid.block_{layer + 1}"
            rows += _vae_resnet(f"{side}.mid_block.resnets.{layer}", there, False)
        if config.get("mid_block_add_attention", True):
            here, there = f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1"
            rows += _both(f"{here}.group_norm", f"{there}.norm")
            for leaf, original in _VAE_ATTENTION.items():
                rows.append(Row(f"{here}.{leaf}.weight", f"{there}.{original}.weight", "point"))
                rows.append(Row(f"{here}.{leaf}.bias", f"{there}.{original}.bias"))
    width = widths[0]
    for block, own in enumerate(widths):
        here, there = f"encoder.down_blocks.{block}", f"encoder.down.{block}"
        for layer in range(layers):
            shortcut = width != own
            rows += _vae_resnet(f"{here}.resnets.{layer}", f"{there}.block.{layer}", shortcut)
            width = own
        if block < last:
            rows += _both(f"{here}.downsamplers.0.conv", f"{there}.downsample.conv")
    for block, own in enumerate(reversed(widths)):  # the original counts them from the picture
        here, there = f"decoder.up_blocks.{block}", f"decoder.up.{last - block}"
        for layer in range(layers + 1):
            shortcut = width != own
            rows += _vae_resnet(f"{here}.resnets.{layer}", f"{there}.block.{layer}", shortcut)
            width = own
        if block < last:
            rows += _both(f"{here}.upsamplers.0.conv", f"{there}.upsample.conv")
    return rows


def clip(config: Mapping[str, Any]) -> list[Row]:
    """CLIP's text encoder as OpenAI's: its names are the same. 196 rows for 12 layers.

    The diffusers names here begin with ``text_model.``, as files have them; transformers' own
    attributes do so in some versions and not in others.
    """
    names = [*_EMBEDDINGS, *_both_names("text_model.final_layer_norm")]
    for layer in range(config["num_hidden_layers"]):
        for leaf in (*_CLIP_LAYER, *(f"self_attn.{part}_proj" for part in "qkv")):
            names += _both_names(f"text_model.encoder.layers.{layer}.{leaf}")
    return [Row(name, name) for name in names]


def open_clip(config: Mapping[str, Any]) -> list[Row]:
    """CLIP's text encoder as OpenCLIP's: q, k and v in one matrix. 517 rows for SDXL's 32 layers.

    A ``text_projection`` is in the table if the configuration's class has one (SDXL).
    """
    rows = [
        Row(_EMBEDDINGS[0], "token_embedding.weight"),
        Row(_EMBEDDINGS[1], "positional_embedding"),
        *_both("text_model.final_layer_norm", "ln_final"),
    ]
    for layer in range(config["num_hidden_layers"]):
        here, there = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for leaf, original in _CLIP_LAYER.items():
            rows += _both(f"{here}.{leaf}", f"{there}.{original}")
        for third in ("q", "k", "v"):
            for end in ("weight", "bias"):
                name = f"{here}.self_attn.{third}_proj.{end}"
                rows.append(Row(name, f"{there}.attn.in_proj_{end}", third))
    if "CLIPTextModelWithProjection" in config.get("architectures", ()):
        rows.append(Row("text_projection.weight", "text_projection", "turned"))
    return rows


def flux(config: Mapping[str, Any]) -> list[Row]:
    """FLUX's transformer: 1156 rows for schnell, 1160 for dev, whose guidance is an input."""
    rows = [
        *_embedder("time_text_embed.timestep_embedder", "time_in"),
        *_embedder("time_text_embed.text_embedder", "vector_in"),
        *_both("context_embedder", "txt_in"),
        *_both("x_embedder", "img_in"),
        *_both("proj_out", "final_layer.linear"),
    ]
    if config.get("guidance_embeds"):
        rows += _embedder("time_text_embed.guidance_embedder", "guidance_in")
    for end in ("weight", "bias"):
        there = f"final_layer.adaLN_modulation.1.{end}"
        rows.append(Row(f"norm_out.linear.{end}", there, "swapped"))
    for block in range(config["num_layers"]):
        here, there = f"transformer_blocks.{block}", f"double_blocks.{block}"
        for leaf, original in _DOUBLE.items():
            rows += _both(f"{here}.{leaf}", f"{there}.{original}")
        for thirds, original in _DOUBLE_QKV.items():
            for leaf, form in zip(thirds, _THIRDS, strict=True):
                rows += _parts(f"{here}.attn.{leaf}", f"{there}.{original}", form)
        for leaf, original in _DOUBLE_NORMS.items():
            rows.append(Row(f"{here}.attn.{leaf}.weight", f"{there}.{original}.scale"))
    for block in range(config["num_single_layers"]):
        here, there = f"single_transformer_blocks.{block}", f"single_blocks.{block}"
        rows += _both(f"{here}.norm.linear", f"{there}.modulation.lin")
        rows += _both(f"{here}.proj_out", f"{there}.linear2")
        for leaf, part in _SINGLE.items():
            rows += _parts(f"{here}.{leaf}", f"{there}.linear1", part)
        for leaf, original in (("norm_q", "norm.query_norm"), ("norm_k", "norm.key_norm")):
            rows.append(Row(f"{here}.attn.{leaf}.weight", f"{there}.{original}.scale"))
    return rows


def t5(config: Mapping[str, Any]) -> list[Row]:
    """T5's encoder, whose names are the same everywhere. 219 rows for 24 layers."""
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    names = ["shared.weight", "encoder.final_layer_norm.weight"]
    for layer in range(config["num_layers"]):
        here = f"encoder.block.{layer}.layer"
        names += [f"{here}.0.SelfAttention.{part}.weight" for part in "qkvo"]
        if layer == 0:
            names.append(f"{here}.0.SelfAttention.relative_attention_bias.weight")
        for part in (*(("wi_0", "wi_1") if gated else ("wi",)), "wo"):
            names.append(f"{here}.1.DenseReluDense.{part}.weight")
        names += [f"{here}.{sub}.layer_norm.weight" for sub in range(2)]
    return [Row(name, name) for name in names]


def to_original(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The way back: each original name with the rows that it is made of, q before k before v."""
    table: dict[str, list[Row]] = {}
    for row in rows:
        table.setdefault(row.original, []).append(row)
    return table


def per_block(value: int | Iterable[int], blocks: int) -> list[int]:
    """A number for each down block, as configurations have it: one for all, or a list."""
    return [value] * blocks if isinstance(value, int) else list(value)


_EMBEDDINGS = (
    "text_model.embeddings.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight",
)
_CLIP_LAYER = {  # inside one layer, without q, k and v
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_VAE_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}
# Inside one transformer block, where both layouts agree. Those of the second have no bias.
_BLOCK = (
    "attn1.to_out.0",
    "attn2.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "norm1",
    "norm2",
    "norm3",
)
_UNBIASED = tuple(f"attn{one}.to_{part}" for one in (1, 2) for part in "qkv")


_DOUBLE = {  # inside one of FLUX's blocks of two streams, without q, k and v
    "norm1.linear": "img_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_add_out": "txt_attn.proj",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_DOUBLE_QKV = {
    ("to_q", "to_k", "to_v"): "img_attn.qkv",
    ("add_q_proj", "add_k_proj", "add_v_proj"): "txt_attn.qkv",
}
_THIRDS: tuple[Form, ...] = ("q", "k", "v")
_DOUBLE_NORMS = {
    "norm_q": "img_attn.norm.query_norm",
    "norm_k": "img_attn.norm.key_norm",
    "norm_added_q": "txt_attn.norm.query_norm",
    "norm_added_k": "txt_attn.norm.key_norm",
}
_SINGLE: dict[str, Form] = {  # of one matrix; its feed-forward is four times as wide as the rest
    "attn.to_q": "q/7", "attn.to_k": "k/7", "attn.to_v": "v/7", "proj_mlp": "mlp/7",
}  # fmt: skip


def _embedder(here: str, there: str) -> Iterator[Row]:
    yield from _both(f"{here}.linear_1", f"{there}.in_layer")
    yield from _both(f"{here}.linear_2", f"{there}.out_layer")


def _parts(here: str, there: str, form: Form) -> Iterator[Row]:
    """Weight and bias of a module that is some of the original's rows."""
    for end in ("weight", "bias"):
        yield Row(f"{here}.{end}", f"{there}.{end}", form)


def _resnet(here: str, there: str, shortcut: bool) -> Iterator[Row]:
    for leaf, original in _RESNET.items():
        yield from _both(f"{here}.{leaf}", f"{there}.{original}")
    if shortcut:
        yield from _both(f"{here}.conv_shortcut", f"{there}.skip_connection")


def _vae_resnet(here: str, there: str, shortcut: bool) -> Iterator[Row]:
    for leaf in ("norm1", "conv1", "norm2", "conv2"):
        yield from _both(f"{here}.{leaf}", f"{there}.{leaf}")
    if shortcut:
        yield from _both(f"{here}.conv_shortcut", f"{there}.nin_shortcut")


def _transformer(here: str, there: str, depth: int) -> Iterator[Row]:
    for leaf in ("norm", "proj_in", "proj_out"):
        yield from _both(f"{here}.{leaf}", f"{there}.{leaf}")
    for block in range(depth):
        inside = f"transformer_blocks.{block}"
        for leaf in _BLOCK:
            yield from _both(f"{here}.{inside}.{leaf}", f"{there}.{inside}.{leaf}")
        for leaf in _UNBIASED:
            name = f"{inside}.{leaf}.weight"
            yield Row(f"{here}.{name}", f"{there}.{name}")


def _both(here: str, there: str) -> Iterator[Row]:
    """Weight and bias of one module."""
    for end in ("weight", "bias"):
        yield Row(f"{here}.{end}", f"{there}.{end}")


def _both_names(module: str) -> tuple[str, str]:
    return f"{module}.weight", f"{module}.bias"
