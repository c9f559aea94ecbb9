"""The WebUI's way to name a LoRA inside a prompt: ``<lora:name:weight>``, read and written.

``<lora:name:te:unet>`` gives the text encoder its own weight; ``te=``, ``unet=`` and the block
weight extension's ``lbw=`` may be named. A weight left out is 1, the UNet's is the text encoder's.
"""

from __future__ import annotations

import re

from shared import blocks
from shared.errors import Code, LoraError
from shared.pictures import LoraUse

_TAG = re.compile(r"\s*<lora:([^<>]+)>")


def taken(prompt: str) -> tuple[str, list[LoraUse]]:
    """The prompt without its LoRA tags, and what they ask for. Raises LoraError(BAD_REQUEST)."""
    uses = [read(match[1]) for match in _TAG.finditer(prompt)]
    return (_TAG.sub("", prompt).strip(), uses) if uses else (prompt, [])


def read(text: str) -> LoraUse:
    """``name:0.8``, ``name:0.8:0.6`` or ``name:te=0.8:unet=0.6:lbw=OUTD``, what stands between
    ``<lora:`` and ``>``. Raises LoraError(BAD_REQUEST)."""
    name, *parts = text.removeprefix("<lora:").removesuffix(">").split(":")
    positional = [part for part in parts if "=" not in part]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    if not name.strip() or len(positional) > 2 or named.keys() - {"te", "unet", "lbw"}:
        raise _wrong(text)
    try:
        text_weight = float(named.get("te") or (positional[0] if positional else 1.0))
        weight = float(named.get("unet") or (positional[1] if len(positional) > 1 else text_weight))
    except ValueError:
        raise _wrong(text) from None
    return LoraUse(
        lora=name.strip(),
        weight=weight,
        text_weight=None if text_weight == weight else text_weight,
        blocks=blocks.read(named["lbw"]) if "lbw" in named else [],
    )


def _wrong(text: str) -> LoraError:
    return LoraError(
        Code.BAD_REQUEST,
        f"<lora:{text}> cannot be read; write <lora:name:0.8>, <lora:name:0.8:0.6> (text encoder, "
        "UNet) or <lora:name:0.8:lbw=OUTD>.",
    )
