"""What there is to say of a base."""

from __future__ import annotations

from lora_tui.core import words
from shared.wire import FAMILIES, BaseModel


def predicts(base: BaseModel) -> str:
    """noise, v or a flow, with a question mark where that is only a guess."""
    what = {"epsilon": "noise", "v_prediction": "v", "flow": "a flow"}[base.objective]
    return f"{what}{'?' if base.guessed else ''}"


def about(base: BaseModel) -> list[tuple[str, str]]:
    """Names and values, the empty ones too."""
    said = predicts(base).rstrip("?")
    if base.guessed:
        said += f", as a guess: {base.guessed}"
    elif base.told:
        said += ", as you said"
    return [
        ("name", base.name),
        (base.layout, f"{base.path} ({words.size(base.size)})"),
        ("from", base.hub),
        ("family", f"{FAMILIES.get(base.family, base.family)} ({base.family})"),
        ("predicts", said),
        ("noise", "zero terminal SNR" if base.zero_snr else ""),
        ("resolution", f"{base.resolution} pixels"),
        ("weights in", ", ".join(base.precision)),
        *(("not used", f"{kind} ({number})") for kind, number in base.carried.items()),
        *(("also there", one) for one in base.passed_over),
        ("problem", base.problem),
    ]
