"""What every screen is made of: places above, the body, status and keys below."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import Input

from lora_tui.actions import BY_ID, of_scope
from lora_tui.core import summary
from lora_tui.core.summary import Said
from lora_tui.widgets.lines import Banner, KeyBar, OneLine, Places, StatusLine
from shared import wire
from shared.errors import LoraError

if TYPE_CHECKING:
    from lora_tui.app import LoraApp

T = TypeVar("T")


class Place(Screen[None]):
    """A screen that ``g`` and a letter open. ``scope`` names its actions. Textual calls the
    handlers of every class itself, these last, so a screen's do not call ``super()``'s."""

    scope: ClassVar[str] = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]

    @property
    def lora(self) -> LoraApp:
        return cast("LoraApp", self.app)

    @property
    def state(self) -> wire.State:
        return self.lora.state

    def compose(self) -> ComposeResult:
        yield Places(self.scope)
        yield Banner(id="banner")
        with Vertical(id="body"):
            yield from self.body()
        with Vertical(id="foot"):
            yield StatusLine(id="status")
            yield KeyBar()

    def body(self) -> ComposeResult:
        """The screen's own widgets."""
        raise NotImplementedError

    built = False  # whether all its widgets are there: news may come before

    def on_mount(self) -> None:
        self.built = True
        self.show_keys()
        self.show_lines()
        self.call_after_refresh(self.state_changed, None)

    def on_screen_resume(self) -> None:
        self.show_lines()
        if self.built:
            self.returned()

    def returned(self) -> None:
        """The person comes from another screen, or has closed a window over this one."""
        self.state_changed(None)

    # ── what the app tells ──────────────────────────────────────────────────────────────────────

    def state_changed(self, event: wire.AnyEvent | None) -> None:
        """The state moved by ``event``; None: anything may have changed."""

    def live_changed(self, values: Sequence[wire.AnyLive]) -> None:
        """Live values came."""

    def link_changed(self) -> None:
        """The link was made or lost."""

    # ── the lines around the body ───────────────────────────────────────────────────────────────

    def show_keys(self, scope: str = "", hint: Said | None = None) -> None:
        """The key bar: this screen's actions, those of ``scope``, or a hint."""
        if not self.built:
            return
        bar = self.query_one(KeyBar)
        bar.hint(hint or [])
        if hint:
            return
        keymap = self.lora.keymap
        screen = [
            (*keymap.in_bar(action), action.id)
            for action in sorted(of_scope(scope or self.scope), key=lambda a: a.footer)
            if action.footer
        ]
        everywhere = [
            (keymap.shown(action), action.label, action.id)
            for action in sorted(of_scope("app"), key=lambda a: a.footer)
            if action.footer
        ]
        bar.keys(screen, [] if scope else everywhere)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        self._show_keys_here()

    def on_descendant_blur(self, event: events.DescendantBlur) -> None:
        self._show_keys_here()

    def _show_keys_here(self) -> None:
        """In a text field that a key leaves: that key, and what works from inside."""
        if f"{self.scope}.leave_field" not in BY_ID:
            return
        if not isinstance(self.focused, Input):
            self.show_keys()
            return
        keymap = self.lora.keymap
        actions = [*of_scope(self.scope), *of_scope("app")]
        keys = [
            (key, action.label, action.id)
            for action in sorted(actions, key=lambda a: (a.name != "leave_field", a.footer))
            if (action.footer or action.name == "leave_field")
            and (key := keymap.shown_typing(action))
        ]
        self.query_one(KeyBar).keys(keys, [])

    def show_lines(self) -> None:
        """Places, status and banner from the app's state."""
        if not self.built:
            return
        app = self.lora
        run = summary.active(app.state.runs)
        said = summary.progress(run, app.known.progress.get(run.id)) if run is not None else []
        self.query_one(Places).run_said(said + summary.more(app.state.runs))
        self.query_one(StatusLine).show(app.status_left(), app.known.engine())
        self.query_one(Banner).say(app.link_problem)

    # ── helpers ─────────────────────────────────────────────────────────────────────────────────

    def attempt(
        self, work: Awaitable[T], then: Callable[[T], None] | None = None, *, group: str = "attempt"
    ) -> None:
        """Do ``work`` in the background; an error is said in the corner."""

        async def run() -> None:
            try:
                result = await work
            except LoraError as error:
                self.notify(error.message, severity="error", timeout=8)
            else:
                if then is not None:
                    then(result)

        self.run_worker(run(), group=group)


class Dialog(ModalScreen[T], Generic[T]):
    """A window over a screen."""

    scope: ClassVar[str] = "dialog"

    @property
    def lora(self) -> LoraApp:
        return cast("LoraApp", self.app)

    def state_changed(self, event: wire.AnyEvent) -> None:
        """The state moved by ``event``."""

    def keys_line(self, *ids: str) -> OneLine:
        """A line that names the window's keys."""
        line = OneLine(classes="keys")
        line.show(self.keys_said(*ids))
        return line

    def keys_said(self, *ids: str) -> Said:
        """What such a line says."""
        said: Said = []
        for id_ in ids:
            action = BY_ID[id_]
            said += [
                (self.lora.keymap.shown(action), "primary bold"),
                (f" {action.label}   ", "muted"),
            ]
        return said
