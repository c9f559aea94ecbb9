"""Waiting until nothing more comes."""

from __future__ import annotations

from textual.message_pump import MessagePump
from textual.timer import Timer, TimerCallback


def anew(node: MessagePump, timer: Timer | None, seconds: float, act: TimerCallback) -> Timer:
    """Do it after so many seconds from now; a wait for it that is under way, ``timer``, ends."""
    if timer is not None:
        timer.stop()
    return node.set_timer(seconds, act)
