"""Numbers and states said the way people read them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from shared.pictures import SecondPass, stem
from shared.wire import Caption, CaptionState, RunState

MARKS: dict[CaptionState, str] = {
    "unreviewed": "·",
    "accepted": "✓",
    "edited": "✎",
    "rejected": "✗",
    "flagged": "⚑",
}
# Colours by meaning; resolved against the theme where they are painted.
CAPTION_TONES: dict[CaptionState, str] = {
    "unreviewed": "muted",
    "accepted": "success",
    "edited": "primary",
    "rejected": "error",
    "flagged": "warning",
}
RUN_MARKS: dict[RunState, str] = {
    "queued": "○",
    "starting": "◔",
    "training": "●",
    "paused": "‖",
    "finished": "✓",
    "stopped": "■",
    "failed": "✗",
    "interrupted": "◌",
}
# What is counted in a phase that does not count steps.
COUNTED = {"caching": "pictures", "compiling": "sizes of batch"}
RUN_TONES: dict[RunState, str] = {
    "queued": "muted",
    "starting": "primary",
    "training": "primary",
    "paused": "warning",
    "finished": "success",
    "stopped": "muted",
    "failed": "error",
    "interrupted": "warning",
}


def count(number: int) -> str:
    """Thousands apart by a thin space: 8 330."""
    return f"{number:,}".replace(",", " ")


def plural(number: int, one: str, many: str = "") -> str:
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def author(caption: Caption, me: str) -> str:
    """Who a caption is by. What a captioner wrote is nobody's until somebody has looked at it."""
    if caption.source == "captioner" and caption.state == "unreviewed":
        return "a captioner"
    return "you" if caption.by == me else caption.by


def size(bytes_: float) -> str:
    """Bytes in the unit that keeps three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if bytes_ < 1000:
            return (
                f"{bytes_:.0f} {unit}" if unit == "B" or bytes_ >= 100 else f"{bytes_:.1f} {unit}"
            )
        bytes_ /= 1000
    return f"{bytes_:.1f} TB"


def share(done: int, total: int, kind: str) -> str:
    """How far a job of such a kind is; a download counts bytes."""
    return f"{size(done)} of {size(total)}" if kind == "download" else f"{done}/{total}"


def gib(bytes_: float) -> str:
    return f"{bytes_ / 2**30:.1f}"


def gpus(names: Sequence[str]) -> str:
    """GPUs by their names: GPU 0, GPUs 0,2, GPUs 0–7."""
    return f"GPU{'s' * (len(names) > 1)} {gpu_names(names)}"


def gpu_names(names: Sequence[str]) -> str:
    """0, or 0,2 or 0–7; of a UUID its beginning."""
    short = [name if len(name) <= 8 else f"{name[:8]}…" for name in names]
    first = int(names[0]) if names and names[0].isdecimal() else 0
    if len(names) > 2 and list(names) == [str(first + place) for place in range(len(names))]:
        short = [f"{names[0]}–{names[-1]}"]
    return ",".join(short)


def duration(seconds: float | None) -> str:
    """2:01, 1:04:10, 3 d 4 h; a dash when nobody knows."""
    if seconds is None or math.isnan(seconds) or seconds < 0:
        return "–"
    whole = int(seconds + 0.5)
    if whole >= 48 * 3600:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def speed(steps_per_second: float | None) -> str:
    """41 it/s; seconds for each step where they are slower than one a second."""
    if not steps_per_second or steps_per_second <= 0:
        return "–"
    if steps_per_second < 1:
        return f"{1 / steps_per_second:.1f} s/it"
    digits = 0 if steps_per_second >= 20 else 1
    return f"{steps_per_second:.{digits}f} it/s"


def number(value: float | None) -> str:
    """A loss or a rate in four significant places."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def second_pass(second: SecondPass) -> str:
    """2 ×, redraw 0.3, Lanczos; its steps where they are its own."""
    steps = f", {plural(second.steps, 'step')}" if second.steps else ""
    return f"{second.scale:g} ×, redraw {second.strength:g}{steps}, {stem(second.upscaler)}"


def ago(at: float | None) -> str:
    """just now, 4 min ago, 3 h ago, else the date."""
    if not at:
        return "–"
    seconds = time.time() - at
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 24 * 3600:
        return f"{seconds // 3600:.0f} h ago"
    return time.strftime("%d %b %H:%M", time.localtime(at))
