"""Library: the LoRA files there are, what each is, and a picture without and with it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Select, Static

from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.screens.base import Place
from lora_tui.screens.card import CardWindow
from lora_tui.screens.dialogs import AskText, Confirm
from lora_tui.screens.painted import picture_fetch
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.picture import PictureView
from lora_tui.widgets.rows import Cell, Column, Rows
from shared import wire
from shared.errors import Code, LoraError, in_words
from shared.pictures import LoraUse, PictureSpec
from shared.recipe import Sampler
from shared.wire import Lora

_NONE = "No LoRAs yet. Training makes one."
_SAMPLERS: tuple[str, ...] = Sampler.__args__  # type: ignore[attr-defined]
_NUMBERS = (("steps", "20"), ("cfg", "7"), ("seed", "1025"), ("weight", "1.0"))


class Library(Place):
    scope = "library"
    CSS_PATH = "library.tcss"
    BINDINGS = bindings("library")

    class Painted(Message):
        """One of the two pictures is there."""

        def __init__(self, side: str, spec: PictureSpec, picture: wire.Picture) -> None:
            super().__init__()
            self.side = side
            self.spec = spec
            self.picture = picture

    class Said(Message):
        """Where painting is; ``end``: it is over, ``error``: because it failed."""

        def __init__(self, text: str, end: bool = False, error: bool = False) -> None:
            super().__init__()
            self.text = text
            self.end = end
            self.error = error

    def __init__(self) -> None:
        super().__init__()
        self._shown = ""
        self._filter = ""
        self._loras: list[Lora] = []
        self._plain: dict[bytes, wire.Picture] = {}  # pictures without a LoRA, by their settings
        self._painting = False

    def body(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="left"):
                with Vertical(classes="panel", id="list") as panel:
                    panel.border_title = "LoRAs"
                    yield Rows(
                        Column("name"),
                        Column("rank", 4, "right"),
                        Column("base", 10, wide=36),
                        Column("size", 8, "right", wide=32),
                        empty=_NONE,
                        id="rows",
                    )
                with Vertical(classes="panel", id="about") as panel:
                    panel.border_title = "about"
                    yield Static("", id="info", markup=False)
            with Vertical(id="right"):
                with Vertical(classes="panel", id="form") as panel:
                    panel.border_title = "paint"
                    with Horizontal(classes="line"):
                        yield Static("prompt", classes="name")
                        yield Input(compact=True, id="prompt", placeholder="what to paint")
                    with Horizontal(classes="line"):
                        yield Static("negative", classes="name")
                        yield Input(compact=True, id="negative", placeholder="what not")
                    with Horizontal(classes="line", id="choices"):
                        yield Static("base", classes="name")
                        yield Select[str]([], compact=True, prompt="base", id="base")
                        yield Static("sampler", classes="name")
                        yield Select(
                            [(name, name) for name in _SAMPLERS],
                            value="Euler",
                            allow_blank=False,
                            compact=True,
                            id="sampler",
                        )
                    for pair in (_NUMBERS[:2], _NUMBERS[2:]):
                        with Horizontal(classes="line"):
                            for name, value in pair:
                                yield Static(name, classes="name")
                                yield Input(value, compact=True, id=name)
                    yield Static("", id="said", markup=False)
                with Horizontal(id="pictures"):
                    for side in ("without", "with"):
                        with Vertical(classes="panel", id=f"{side}-panel") as panel:
                            panel.border_title = side
                            yield PictureView(self.lora.picture_cache, self.lora.depth, id=side)

    @property
    def rows(self) -> Rows:
        return self.query_one(Rows)

    def view(self, side: str) -> PictureView:
        return self.query_one(f"#{side}", PictureView)

    @property
    def lora_shown(self) -> Lora | None:
        return next((lora for lora in self.state.loras if lora.name == self._shown), None)

    def on_mount(self) -> None:
        self.rows.focus()
        if any(lora.folder for lora in self.state.loras) and self.lora.connection is not None:
            self.attempt(self.lora.ask(wire.IndexLoras()), group="index")  # what has changed there

    # ── the state ───────────────────────────────────────────────────────────────────────────────

    def state_changed(self, event: wire.AnyEvent | None) -> None:
        if not self.built:
            return
        if event is None or isinstance(event, wire.LoraChanged | wire.LoraRemoved):
            self._show_list()
        if event is None or isinstance(event, wire.BaseChanged | wire.BaseRemoved):
            self._offer_bases()

    def _show_list(self) -> None:
        needle = self._filter.lower()
        self._loras = sorted(
            (x for x in self.state.loras if needle in f"{x.name} {x.base} {x.trigger}".lower()),
            key=lambda lora: -lora.created,
        )
        place = next((i for i, x in enumerate(self._loras) if x.name == self._shown), 0)
        loras = self._loras
        self.query_one("#list").border_title = f"LoRAs · {self._filter}" if needle else "LoRAs"
        self.rows.say(f"No LoRA has {self._filter!r} in its name." if needle else _NONE)
        self.rows.show(len(loras), lambda i: self._cells(loras[i]), cursor=place)
        self._open(loras[place].name if loras else "")

    def _cells(self, lora: Lora) -> Sequence[Cell]:
        return [
            (lora.name, "error") if lora.problem else lora.name,
            str(lora.rank or "?"),
            (lora.base, "muted"),
            (words.size(lora.size), "muted"),
        ]

    def _offer_bases(self) -> None:
        select = self.query_one("#base", Select)
        names = [base.name for base in self.state.bases if not base.problem]
        present = select.value if select.value is not Select.NULL else None
        lora = self.lora_shown
        wanted = lora.base if lora is not None and lora.base in names else None
        select.set_options([(name, name) for name in names])
        value = present if present in names else wanted or (names[0] if names else None)
        if value is not None:
            select.value = value

    def on_rows_moved(self, message: Rows.Moved) -> None:
        if message.index < len(self._loras):
            self._open(self._loras[message.index].name)

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self.action_generate()

    def _open(self, name: str) -> None:
        if name == self._shown:
            return
        self._shown = name
        lora = self.lora_shown
        self.view("with").clear()
        self._show_weight()
        if lora is None:
            self.query_one("#info", Static).update("")
            return
        self._offer_bases()
        self._take_prompt(lora)
        self.query_one("#info", Static).update(about(lora, None))
        if self.lora.connection is not None:
            self.attempt(
                self.lora.ask(wire.InspectLora(lora=lora.name)),
                lambda info: self._inspected(lora, info),
                group="inspect",
            )

    def _inspected(self, lora: Lora, info: wire.LoraInfo) -> None:
        if lora.name == self._shown:
            self.query_one("#info", Static).update(about(lora, info))

    def _take_prompt(self, lora: Lora) -> None:
        """Begin with what the run's samples showed, if nothing has been typed."""
        field = self.query_one("#prompt", Input)
        if not field.value:
            prompts = [p.prompt for p in self.state.pictures if p.run == lora.run and lora.run]
            field.value = prompts[-1] if prompts else lora.trigger

    # ── painting ────────────────────────────────────────────────────────────────────────────────

    def _weight(self) -> float | None:
        try:
            return float(self.query_one("#weight", Input).value)
        except ValueError:
            return None

    def _show_weight(self) -> None:
        weight = self._weight()
        name = self._shown or "a LoRA"
        title = f"with {name}" + (f" at {weight:g}" if weight is not None else "")
        self.query_one("#with-panel").border_title = title

    def _spec(self) -> PictureSpec:
        """What the form asks for, without a LoRA. Raises LoraError."""
        base = self.query_one("#base", Select).value
        if base is Select.NULL:
            raise LoraError(Code.NOT_FOUND, "This daemon has no base to paint with.")
        values: dict[str, object] = {
            "base": base,
            "prompt": self.query_one("#prompt", Input).value,
            "negative": self.query_one("#negative", Input).value,
            "sampler": self.query_one("#sampler", Select).value,
        }
        for name, _ in _NUMBERS[:3]:
            text = self.query_one(f"#{name}", Input).value.strip()
            try:
                values[name] = float(text) if name == "cfg" else int(text)
            except ValueError:
                raise LoraError(Code.BAD_REQUEST, f"{name} is a number, not {text!r}.") from None
        try:
            return msgspec.convert(values, PictureSpec)
        except msgspec.ValidationError as error:
            raise LoraError(Code.BAD_REQUEST, f"{in_words(error)}.") from None

    def action_generate(self) -> None:
        lora = self.lora_shown
        if lora is None or self._painting:
            return
        if not self.query_one("#prompt", Input).value.strip():
            self.query_one("#prompt", Input).focus()
            self.notify("Say what to paint: there is no prompt yet.", severity="warning")
            return
        weight = self._weight()
        try:
            plain = self._spec()
            if weight is None or not -10 <= weight <= 10:
                raise ValueError
        except LoraError as error:
            self.notify(error.message, severity="warning", timeout=6)
            return
        except ValueError:
            self.notify("The weight is a number between -10 and 10.", severity="warning")
            return
        styled = replace(plain, loras=[LoraUse(lora=lora.name, weight=weight)])
        self._painting = True
        self.run_worker(self._paint(plain, styled), group="paint", exclusive=True)

    async def _paint(self, plain: PictureSpec, styled: PictureSpec) -> None:
        def progress(side: str):  # type: ignore[no-untyped-def]
            return lambda done, total, text: self.post_message(
                self.Said(f"{side}: {text}…" if text else f"{side}: step {done}/{total}")
            )

        try:
            known = self._plain.get(msgspec.json.encode(plain))
            if known is None:
                self.post_message(self.Said("without: waiting for the engine…"))
                known = await self.lora.ask(
                    wire.Generate(spec=plain), on_progress=progress("without")
                )
            self.post_message(self.Painted("without", plain, known))
            self.post_message(self.Said("with: waiting for the engine…"))
            picture = await self.lora.ask(wire.Generate(spec=styled), on_progress=progress("with"))
            self.post_message(self.Painted("with", styled, picture))
        except LoraError as error:
            self.post_message(self.Said(error.message, end=True, error=True))
        else:
            self.post_message(self.Said("", end=True))

    def on_library_painted(self, message: Painted) -> None:
        if message.side == "without":
            self._plain[msgspec.json.encode(message.spec)] = message.picture
        elif not message.spec.loras or message.spec.loras[0].lora != self._shown:
            return
        for note in message.picture.notes:
            self.notify(note, severity="warning", timeout=10, markup=False)
        self.view(message.side).show(message.picture.id, picture_fetch(self, message.picture.id))

    def on_library_said(self, message: Said) -> None:
        self.query_one("#said", Static).update(message.text)
        self.query_one("#said").set_class(message.error, "-error")
        if message.end:
            self._painting = False

    # ── keys ────────────────────────────────────────────────────────────────────────────────────

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.action_generate()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "weight":
            self._show_weight()

    def _change_weight(self, by: float) -> None:
        weight = self._weight()
        weight = round(min(max((1.0 if weight is None else weight) + by, -10), 10), 2)
        self.query_one("#weight", Input).value = f"{weight:.1f}"

    def action_lighter(self) -> None:
        self._change_weight(-0.1)

    def action_heavier(self) -> None:
        self._change_weight(0.1)

    def action_prompt(self) -> None:
        self.query_one("#prompt", Input).focus()

    def action_leave_field(self) -> None:
        self.rows.focus()

    def action_seed(self) -> None:
        self.query_one("#seed", Input).value = str(random.randrange(2**31))

    def action_cancel(self) -> None:
        if self._painting:
            self.workers.cancel_group(self, "paint")
            self._painting = False
            self.query_one("#said", Static).update("Cancelled.")

    def action_filter(self) -> None:
        def typed(text: str | None) -> None:
            if text is not None:
                self._filter = text
                self._show_list()

        self.app.push_screen(AskText("Show LoRAs with", value=self._filter), typed)

    def action_card(self) -> None:
        if self.lora_shown is not None:
            self.app.push_screen(CardWindow(self.lora_shown.name))

    def action_index(self) -> None:
        def typed(folder: str | None) -> None:
            if folder:
                self.attempt(
                    self.lora.ask(wire.IndexLoras(folder=folder)), self._indexed, group="index"
                )

        self.app.push_screen(AskText("List the LoRAs in the folder"), typed)

    def _indexed(self, found: wire.LorasIndexed) -> None:
        skipped = f", {words.plural(len(found.skipped), 'file')} skipped" if found.skipped else ""
        self.notify(f"{words.plural(len(found.added), 'LoRA')} listed{skipped}.")

    def action_delete(self) -> None:
        lora = self.lora_shown
        if lora is None:
            return
        if lora.folder:
            self.notify(
                f"{lora.name} lies in a folder of yours, where nothing is deleted from here.",
                severity="warning",
            )
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.attempt(
                    self.lora.ask(wire.RemoveLora(lora=lora.name)),
                    lambda _: self.notify(f"{lora.name} is deleted."),
                )

        self.app.push_screen(
            Confirm(
                f"Delete {lora.name}?",
                f"The file {clean(lora.path)} ({words.size(lora.size)}) is deleted from the disk. "
                "This cannot be undone.",
            ),
            answered,
        )


def about(lora: Lora, info: wire.LoraInfo | None) -> str:
    """What there is to say of a LoRA; ``info`` once its header has been read."""
    lines = [
        clean(lora.problem),
        f"trigger  {clean(lora.trigger) or '–'}",
        f"base     {clean(lora.base) or '–'}",
        f"from     {lora.run + ', step ' + words.count(lora.step) if lora.run else 'a file'}",
        f"made     {words.ago(lora.created)} · {words.size(lora.size)}",
    ]
    if info is not None:
        modules = ", ".join(f"{number} {name}" for name, number in info.modules.items() if number)
        ranks = ", ".join(map(str, info.rank))
        alphas = ", ".join(f"{alpha:g}" for alpha in info.alpha)
        lines += [
            f"rank     {ranks} · alpha {alphas}",
            f"modules  {modules}",
            f"format   {info.dialect}" + (f" · {info.base_version}" if info.base_version else ""),
        ]
        if info.epochs or info.steps:
            lines.append(f"trained  {words.count(info.steps)} steps, {info.epochs} epochs")
    lines.append(f"sha256   {lora.sha256[:16]}…" if lora.sha256 else "")
    lines.append(clean(lora.path))
    return "\n".join(line for line in lines if line)
