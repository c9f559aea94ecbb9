"""The window for what a mix is painted with: base, sampler, steps, guidance, seed, size, a second
pass, and what its previews are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import msgspec
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Select, Static

from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings
from shared import distilled, wire
from shared.errors import Code, LoraError, misfit
from shared.mixes import Decoder, MixSpec
from shared.pictures import UPSCALERS, SecondPass, stem
from shared.recipe import Sampler

_SAMPLERS: tuple[str, ...] = Sampler.__args__  # type: ignore[attr-defined]
_NUMBERS = {"steps": "", "cfg": "", "seed": "", "width": "0: the base's", "height": "0: the base's"}
_PREVIEW = "a distilled LoRA: lcm-lora:1 4 LCM"
_SECOND = {  # id → of SecondPass, name on the screen, hint
    "second": ("scale", "second ×", "2: twice as large, drawn anew in part; empty: none"),
    "redraw": ("strength", "redraw", "how much, 0 to 1; 0.3"),
    "second_steps": ("steps", "its steps", "0: as many as the first pass"),
}
_DECODERS = {
    "auto": "auto: an approximation where the VAE takes long",
    "cheap": "cheap: always an approximation",
    "full": "full: the VAE's, and none on the way",
}


class MixSettings(Dialog[MixSpec | None]):
    """Answers the mix with other settings, None when left."""

    BINDINGS = bindings("mix_settings")

    def __init__(self, spec: MixSpec, bases: Sequence[wire.BaseModel]) -> None:
        super().__init__()
        self._spec = spec
        names = [base.name for base in bases if not base.problem]
        self._bases = names if spec.base in names else [spec.base, *names]

    def compose(self) -> ComposeResult:
        spec, second = self._spec, self._spec.second
        preview = distilled.said(spec.preview) if spec.preview else ""
        with Vertical(classes="window") as window:
            window.border_title = "What the mix is painted with"
            yield from _choice("base", "base", [(name, name) for name in self._bases], spec.base)
            samplers = [(name, name) for name in _SAMPLERS]
            yield from _choice("sampler", "sampler", samplers, spec.sampler)
            for name, hint in _NUMBERS.items():
                value = getattr(spec, name)
                yield from _field(name, name, f"{value:g}" if name == "cfg" else str(value), hint)
            for id_, (name, title, hint) in _SECOND.items():
                value = f"{getattr(second, name):g}" if second else ""
                yield from _field(id_, title, value, hint)
            upscaler = (second or SecondPass()).upscaler
            yield from _choice("upscaler", "upscaler", _upscalers(upscaler, []), upscaler)
            yield from _field("preview", "preview", preview, _PREVIEW)
            decoders = [(_DECODERS[name], name) for name in get_args(Decoder)]
            yield from _choice("decoder", "decoder", decoders, spec.decoder)
            yield Static("", id="wrong", markup=False)
            yield self.keys_line("mix_settings.take", "mix_settings.leave")

    def on_mount(self) -> None:
        self.query_one("#steps", Input).focus()
        self.run_worker(self._offer())

    async def _offer(self) -> None:
        """Let the networks be chosen that the daemon has."""
        try:
            found = await self.lora.ask(wire.ListUpscalers())
        except LoraError:  # without them the window is of use, too
            return
        names = [one.name for one in found.upscalers if not one.problem]
        select: Select[str] = self.query_one("#upscaler", Select)
        chosen = str(select.value)
        select.set_options(_upscalers(chosen, names))
        select.value = chosen

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.action_take()

    def action_take(self) -> None:
        """Close with what the fields say, if it can be painted."""
        wrong = self.query_one("#wrong", Static)
        try:
            spec = msgspec.convert(msgspec.to_builtins(self._spec) | self._values(), MixSpec)
        except LoraError as error:
            wrong.update(error.message)
            return
        except msgspec.ValidationError as error:
            wrong.update(misfit(error))
            return
        if spec.width % 8 or spec.height % 8:
            wrong.update("Width and height are multiples of 8 pixels.")
            return
        self.dismiss(spec)

    def _values(self) -> dict[str, Any]:
        """What the fields say. Raises LoraError(BAD_REQUEST)."""
        values: dict[str, Any] = {
            name: self.query_one(f"#{name}", Select).value
            for name in ("base", "sampler", "decoder")
        }
        for name in _NUMBERS:
            values[name] = _number(name, self._text(name) or "0", whole=name != "cfg")
        values["second"] = None
        if self._text("second") not in ("", "0", "1"):
            values["second"] = {"upscaler": self.query_one("#upscaler", Select).value} | {
                name: _number(title, self._text(id_), whole=name == "steps")
                for id_, (name, title, _) in _SECOND.items()
                if self._text(id_)
            }
        preview = self._text("preview")
        values["preview"] = msgspec.to_builtins(distilled.read(preview)) if preview else None
        return values

    def _text(self, field: str) -> str:
        return self.query_one(f"#{field}", Input).value.strip()

    def action_leave(self) -> None:
        self.dismiss(None)


def _field(id_: str, title: str, value: str, hint: str) -> ComposeResult:
    with Horizontal(classes="line"):
        yield Static(title, classes="name")
        yield Input(value, placeholder=hint, compact=True, id=id_)


def _choice(id_: str, title: str, options: list[tuple[str, str]], value: str) -> ComposeResult:
    with Horizontal(classes="line"):
        yield Static(title, classes="name")
        yield Select(options, value=value, allow_blank=False, compact=True, id=id_)


def _upscalers(chosen: str, networks: Sequence[str]) -> list[tuple[str, str]]:
    """What can be chosen: also one that is a path, or has gone away."""
    return [(stem(name), name) for name in dict.fromkeys([*UPSCALERS, *networks, chosen])]


def _number(name: str, text: str, *, whole: bool) -> float:
    """Raises LoraError(BAD_REQUEST)."""
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise LoraError(Code.BAD_REQUEST, f"{name} is a number, not {text!r}.") from None
