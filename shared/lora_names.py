"""Module names of LoRA files from one dialect to another, by the grammar of the names alone.

kohya writes underscores where diffusers' paths have dots, so the way back needs to know the words.
SDXL files of kohya name the UNet's modules as the original code did.
"""

from __future__ import annotations

import re

from shared.errors import Code, LoraError
from shared.safetensors_file import Header

# The words of module paths that have underscores in them; longest first where one begins another.
_WORDS = sorted(
    (
        "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "proj_in", "proj_out",
        "to_q", "to_k", "to_v", "to_out", "time_emb_proj", "time_embedding", "add_embedding",
        "conv_in", "conv_out", "conv_shortcut", "linear_1", "linear_2", "text_model", "self_attn",
        "q_proj", "k_proj", "v_proj", "out_proj", "text_projection",
    ),
    key=len,
    reverse=True,
)  # fmt: skip
_PLAIN = (
    "attentions", "resnets", "downsamplers", "upsamplers", "attn1", "attn2", "ff", "net", "proj",
    "conv1", "conv2", "conv", "encoder", "layers", "mlp", "fc1", "fc2",
)  # fmt: skip
_TOKEN = re.compile("|".join([*_WORDS, *_PLAIN, r"\d+"]))
_PREFIXES = {
    "lora_unet_": "unet.",
    "lora_te_": "text_encoder.",
    "lora_te1_": "text_encoder.",
    "lora_te2_": "text_encoder_2.",
}
_FLUX = re.compile(
    r"^lora_unet_(?P<blocks>double_blocks|single_blocks)_(?P<block>\d+)_(?P<rest>.+)$"
)
_RESNET = {
    "in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}  # fmt: skip
_ORIGINAL = re.compile(
    r"^lora_unet_(?:(?P<side>input|output)_blocks_(?P<block>\d+)|middle_block)_(?P<at>\d+)(?:_(?P<rest>.+))?$"
)
_DIFFUSERS = re.compile(
    r"^lora_unet_(?:(?P<side>down|up)_blocks_(?P<block>\d+)|mid_block)_"
    r"(?P<kind>attentions|resnets|downsamplers|upsamplers)_(?P<layer>\d+)_(?P<rest>.+)$"
)


def is_sdxl(header: Header) -> bool:
    """Whether a LoRA is for SDXL: it says so, adapts two text encoders, or is as wide as SDXL."""
    if header.metadata.get("ss_base_model_version", "").startswith("sdxl"):
        return True
    if any(key.startswith(("lora_te2_", "text_encoder_2.")) for key in header.tensors):
        return True
    wide = (
        info.shape
        for key, info in header.tensors.items()
        if "attn2" in key and "to_k" in key and ("down" in key or "lora_A" in key)
    )
    return any(len(shape) > 1 and shape[1] == 2048 for shape in wide)


def to_kohya(name: str, *, sdxl: bool) -> str:
    """A dotted name (``unet.…``, ``text_encoder.…``) to kohya's; kohya's stay as they are."""
    if name.startswith("lora_"):
        return name
    part, _, path = name.partition(".")
    if part == "transformer":
        raise LoraError(
            Code.INVALID_FILE,
            f"{name} is diffusers' name for a layer of FLUX, of which kohya's files hold several "
            "in one matrix. lora-tui uses such files as they are, and converts or merges none.",
        )
    if part == "unet":
        return f"lora_unet_{path.replace('.', '_')}"
    path = path if path.startswith(("text_model.", "text_projection")) else f"text_model.{path}"
    prefix = {"text_encoder": "lora_te1" if sdxl else "lora_te", "text_encoder_2": "lora_te2"}[part]
    return f"{prefix}_{path.replace('.', '_')}"


def dotted(name: str, *, sdxl: bool) -> str | None:
    """Any dialect's name to a dotted path, ``unet.…`` or ``text_encoder….``; None where its words
    are not those of a Stable Diffusion. kohya's of FLUX, whose layers are not diffusers', stay in
    their words: ``transformer.double_blocks.0.img_attn_qkv``."""
    if match := _FLUX.match(name):
        return f"transformer.{match['blocks']}.{match['block']}.{match['rest']}"
    if not name.startswith(("lora_", "unet.", "text_encoder")):
        return None
    return to_dotted(to_kohya(name, sdxl=sdxl))


def to_dotted(name: str) -> str | None:
    """kohya's name to a dotted one; None where its words are not those of a Stable Diffusion."""
    for prefix, part in _PREFIXES.items():
        if name.startswith(prefix):
            path = _dotted(to_diffusers(name).removeprefix(prefix))
            return None if path is None else part + path
    return name if "." in name else None


def to_diffusers(name: str) -> str:
    """kohya's name in the original code's words (SDXL) in diffusers' words; others as they are."""
    if not (match := _ORIGINAL.match(name)):
        return name
    at, rest = int(match["at"]), match["rest"] or ""
    inner = _RESNET.get(rest, rest)
    if match["side"] is None:  # resnet, transformer, resnet
        kind = f"attentions_0_{rest}" if at == 1 else f"resnets_{at // 2}_{inner}"
        return f"lora_unet_mid_block_{kind}"
    number = int(match["block"])
    if match["side"] == "input":
        if number == 0:
            return "lora_unet_conv_in"
        block, layer = divmod(number - 1, 3)
        side, sampler = "down_blocks", "downsamplers_0_conv" if rest == "op" else ""
    else:
        block, layer = divmod(number, 3)
        side, sampler = "up_blocks", "upsamplers_0_conv" if rest == "conv" else ""
    if sampler:
        return f"lora_unet_{side}_{block}_{sampler}"
    kind = f"attentions_{layer}_{rest}" if at == 1 else f"resnets_{layer}_{inner}"
    return f"lora_unet_{side}_{block}_{kind}"


def _dotted(name: str) -> str | None:
    parts = []
    while name:
        match = _TOKEN.match(name)
        if not match or not (match.end() == len(name) or name[match.end()] == "_"):
            return None
        parts.append(match[0])
        name = name[match.end() + 1 :]
    return ".".join(parts)


def to_original(name: str) -> str:
    """The way back from ``to_diffusers`` for an SDXL UNet; what is in no block stays as it is."""
    if name == "lora_unet_conv_in":
        return "lora_unet_input_blocks_0_0"
    if not (match := _DIFFUSERS.match(name)):
        return name
    kind, layer, rest = match["kind"], int(match["layer"]), match["rest"]
    rest = {new: old for old, new in _RESNET.items()}.get(rest, rest)
    if match["side"] is None:
        at = 1 if kind == "attentions" else 2 * layer
        return f"lora_unet_middle_block_{at}_{rest}"
    first = 3 * int(match["block"])
    if kind == "downsamplers":
        return f"lora_unet_input_blocks_{first + 3}_0_op"
    if kind == "upsamplers":
        return f"lora_unet_output_blocks_{first + 2}_2_conv"
    at = 1 if kind == "attentions" else 0
    if match["side"] == "down":
        return f"lora_unet_input_blocks_{first + layer + 1}_{at}_{rest}"
    return f"lora_unet_output_blocks_{first + layer}_{at}_{rest}"
