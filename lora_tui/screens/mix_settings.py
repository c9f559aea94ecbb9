"""The window for what a mix is painted with: base, sampler, steps, guidance, seed, size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Select, Static

from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings
from shared import distilled, wire
from shared.errors import LoraError
from shared.mixes import MixSpec
from shared.recipe import Sampler

_SAMPLERS: tuple[str, ...] = Sampler.__args__  # type: ignore[attr-defined]
_NUMBERS = {"steps": "", "cfg": "", "seed": "", "width": "0: the base's", "height": "0: the base's"}
_PREVIEW = "a distilled LoRA: lcm-lora:1 4 LCM"


class MixSettings(Dialog[MixSpec | None]):
    """Answers the mix with other settings, None when left."""

    BINDINGS = bindings("mix_settings")

    def __init__(self, spec: MixSpec, bases: Sequence[wire.BaseModel]) -> None:
        super().__init__()
        self._spec = spec
        names = [base.name for base in bases if not base.problem]
        self._bases = names if spec.base in names else [spec.base, *names]

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = "What the mix is painted with"
            for name, values in (("base", self._bases), ("sampler", _SAMPLERS)):
                with Horizontal(classes="line"):
                    yield Static(name, classes="name")
                    yield Select(
                        [(value, value) for value in values], value=getattr(self._spec, name),
                        allow_blank=False, compact=True, id=name,
                    )  # fmt: skip
            for name, hint in _NUMBERS.items():
                with Horizontal(classes="line"):
                    yield Static(name, classes="name")
                    value = f"{getattr(self._spec, name):g}" if name == "cfg" else ""
                    yield Input(
                        value or str(getattr(self._spec, name)), placeholder=hint, compact=True,
                        id=name,
                    )  # fmt: skip
            with Horizontal(classes="line"):
                yield Static("preview", classes="name")
                preview = self._spec.preview
                yield Input(
                    distilled.said(preview) if preview else "", placeholder=_PREVIEW, compact=True,
                    id="preview",
                )  # fmt: skip
            yield Static("", id="wrong", markup=False)
            yield self.keys_line("mix_settings.take", "mix_settings.leave")

    def on_mount(self) -> None:
        self.query_one("#steps", Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.action_take()

    def action_take(self) -> None:
        """Close with what the fields say, if it can be painted."""
        values: dict[str, Any] = {
            name: self.query_one(f"#{name}", Select).value for name in ("base", "sampler")
        }
        wrong = self.query_one("#wrong", Static)
        for name in _NUMBERS:
            text = self.query_one(f"#{name}", Input).value.strip()
            try:
                values[name] = float(text) if name == "cfg" else int(text or "0")
            except ValueError:
                wrong.update(f"{name} is a number, not {text!r}.")
                return
        text = self.query_one("#preview", Input).value.strip()
        try:
            values["preview"] = msgspec.to_builtins(distilled.read(text)) if text else None
            spec = msgspec.convert(msgspec.to_builtins(self._spec) | values, MixSpec)
        except LoraError as error:
            wrong.update(error.message)
            return
        except msgspec.ValidationError as error:
            wrong.update(f"{str(error).replace('`', '').replace(' - at $.', ': ')}.")
            return
        if spec.width % 8 or spec.height % 8:
            wrong.update("Width and height are multiples of 8 pixels.")
            return
        self.dismiss(spec)

    def action_leave(self) -> None:
        self.dismiss(None)
