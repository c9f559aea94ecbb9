"""``lora-tui settings``: this client's own, and what its terminal can show."""

from __future__ import annotations

import os

from msgspec import to_builtins

from lora_tui.commands.common import Invocation, Subparsers, command, noun
from lora_tui.commands.console import table
from shared import settings
from shared.errors import Code, Exit, LoraError

_HELP = {
    "name": "who you are to the others; empty: user@host",
    "pictures": " ".join(settings.PICTURE_MODES),
    "slow_link": "true: small pictures of few colours, never sharp",
}
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "settings", "your own settings, and how pictures are shown here")
    command(verbs, "list", list_them, "list your settings, and how pictures are shown here")
    put = command(
        verbs,
        "set",
        set_it,
        "change a setting",
        "  lora-tui settings set pictures half-blocks\n  lora-tui settings set slow_link true",
    )
    put.add_argument("name", metavar="NAME", choices=list(_HELP), help=", ".join(_HELP))
    put.add_argument("value", metavar="VALUE")
    ask = command(
        verbs,
        "detect",
        detect_it,
        "ask the terminal what pictures it can show",
        "  lora-tui settings detect --save   # where `list` does not find it out by itself",
    )
    ask.add_argument("--save", action="store_true", help="and make it your setting")


def list_them(call: Invocation) -> Exit:
    from lora_tui.graphics.detect import detect

    chosen = settings.load()
    terminal = detect(settings.pictures_of_environment() or chosen.pictures)
    values = to_builtins(chosen)

    def lines() -> list[str]:
        rows = [(name, str(values[name]), text) for name, text in _HELP.items()]
        return [
            *table(("SETTING", "VALUE", "MEANING"), rows),
            "",
            f"in {settings.path()}",
            f"pictures in this terminal: {terminal.protocol} ({terminal.why})",
        ]

    here = {"protocol": terminal.protocol, "why": terminal.why, "tmux": terminal.tmux}
    call.console.show({"settings": values, "path": str(settings.path()), "here": here}, lines)
    return Exit.OK


def set_it(call: Invocation) -> Exit:
    name, value = call.args.name, call.args.value
    if isinstance(getattr(settings.Settings(), name), bool):
        if value.lower() not in _TRUTH:
            raise LoraError(Code.BAD_REQUEST, f"{name} is true or false, not {value!r}.")
        value = _TRUTH[value.lower()]
    values = to_builtins(settings.put(name, value))
    call.console.show({"settings": values}, lambda: [f"{name}: {values[name]}"])
    return Exit.OK


def detect_it(call: Invocation) -> Exit:
    from lora_tui.graphics import detect, query

    if os.environ.get("TMUX") or os.environ.get("STY"):  # what answers is the multiplexer
        found = detect.detect()
    else:
        answer = query.ask()
        if answer is None:
            raise LoraError(
                Code.WRONG_STATE,
                "The terminal does not answer. Half-blocks work; if you know better, "
                "`lora-tui settings set pictures kitty` (or sixel, iterm2).",
            )
        found = query.best(answer)
    if call.args.save:
        settings.put("pictures", found.protocol)
    call.console.show(
        {"protocol": found.protocol, "why": found.why, "saved": call.args.save},
        lambda: [f"{found.protocol} ({found.why})"],
    )
    return Exit.OK
