"""The app: it holds the state the daemon tells, and hands it to the screens."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rich.style import Style
from textual.app import App
from textual.binding import BindingType
from textual.filter import Monochrome, NoColor
from textual.screen import Screen

from lora_tui import keymap as keymaps
from lora_tui.core.drafts import state_dir
from lora_tui.core.filter_history import FilterHistory
from lora_tui.core.known import Known
from lora_tui.core.summary import Said
from lora_tui.graphics.detect import Terminal, detect
from lora_tui.graphics.here import Here
from lora_tui.imports import ImportEnded, ImportProgressed, Imports
from lora_tui.inorder import InOrder
from lora_tui.link import Connect, Connection, LinkLost, LinkMade, Noticed, Progress, follow
from lora_tui.pixels import Depth, depth_of
from lora_tui.screens.base import Dialog, Place
from lora_tui.screens.navigate import Commands, Help
from lora_tui.sparing import Sparing
from lora_tui.themes import DARK, FEW_COLOURS
from lora_tui.tidying import Tidying
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.lines import KeyBar, Places
from lora_tui.widgets.picture import PictureCache
from lora_tui.widgets.tones import tone_style
from shared import settings, wire
from shared.errors import Code, LoraError
from shared.notices import Disconnected, StateReplaced
from shared.paths import config_dir
from shared.settings import PictureMode
from shared.state import apply

R = TypeVar("R")


def _datasets() -> Screen[Any]:
    from lora_tui.screens.datasets import Datasets

    return Datasets()


def _review() -> Screen[Any]:
    from lora_tui.screens.review import Review

    return Review()


def _train() -> Screen[Any]:
    from lora_tui.screens.train import Train

    return Train()


def _runs() -> Screen[Any]:
    from lora_tui.screens.runs import Runs

    return Runs()


def _mixer() -> Screen[Any]:
    from lora_tui.screens.mixer import Mixer

    return Mixer()


def _library() -> Screen[Any]:
    from lora_tui.screens.library import Library

    return Library()


def _gallery() -> Screen[Any]:
    from lora_tui.screens.gallery import Gallery

    return Gallery()


def _bases() -> Screen[Any]:
    from lora_tui.screens.bases import Bases

    return Bases()


class LoraApp(Sparing, Tidying, InOrder):
    """One client of one daemon. ``connect`` makes the connection, again and again if need be."""

    TITLE = "lora-tui"
    CSS_PATH = "app.tcss"
    BINDINGS: ClassVar[list[BindingType]] = bindings("app")
    MODES = {
        "datasets": _datasets,
        "review": _review,
        "train": _train,
        "runs": _runs,
        "mixer": _mixer,
        "library": _library,
        "gallery": _gallery,
        "bases": _bases,
    }
    DEFAULT_MODE = "datasets"
    COMMANDS = {Commands}
    COMMAND_PALETTE_BINDING = "ctrl+p"
    ENABLE_COMMAND_PALETTE = True

    def __init__(
        self,
        connect: Connect,
        *,
        where: str = "",
        open_at: str = "",
        pictures: bool = True,
        terminal: Terminal | None = None,
        slow: bool = False,
        alone: bool = False,
        keymap: keymaps.Keymap | None = None,
    ) -> None:
        """``alone``: the process is for this app only, and it may say when memory is tidied."""
        self.keymap = keymap or keymaps.load(config_dir() / "keymap.toml")
        self.opened_run = open_at  # a run to show first
        super().__init__()
        self._connect = connect
        self._alone = alone
        self.where = where
        self.connection: Connection | None = None
        self.link_problem = ""
        self.known = Known()
        self.picture_cache = PictureCache()
        terminal = terminal or Terminal("half-blocks" if pictures else "off")
        self.pictures = Here(self, terminal, slow=slow)
        self.imports = Imports(self)
        self.review_at = ("", "")  # dataset and item that Review opens next
        self.picture_filters: dict[str, str] = {}  # what Datasets and Review show, by dataset
        self.caption_shapes: dict[str, bool] = {}  # Review shows them as tags, by dataset
        self.browse_at = ("", "")  # dataset and item that Datasets shows next, as a grid
        self.picture_sorts: dict[str, wire.Sort] = {}  # in which order, where it is no usual one
        self.filter_history = FilterHistory(state_dir() / "filters")
        self.train_with = ""  # dataset that Train takes next
        self.farewell = ""
        self._lines_stale = False
        self.register_theme(DARK)
        self.register_theme(FEW_COLOURS)
        # Set before the first stylesheet is parsed: a theme set later parses all of it again.
        self.set_reactive(App.theme, DARK.name)
        self.stylesheet.set_variables(self.get_css_variables())

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return dict(DARK.variables)

    # ── start ───────────────────────────────────────────────────────────────────────────────────

    def on_mount(self) -> None:
        if self.colours in ("16", "none"):
            self.theme = FEW_COLOURS.name
        if self.no_color:  # Textual would paint greys; no colour means none
            self._filters = [f for f in self._filters if not isinstance(f, Monochrome)]
            self._filters.append(NoColor())
        self.pictures.begin()
        self.set_keymap(self.keymap.keys)
        for problem in self.keymap.problems:
            self.notify(problem, title="keymap.toml", severity="warning", timeout=10)
        if self.opened_run:
            self.switch_mode("runs")
        self.set_interval(1.0, self._show_lines)
        self.set_interval(20.0, self._ask_status)
        self.call_after_refresh(self._start)

    def _start(self) -> None:
        self._keys_in_order = True
        self.link_problem = ""
        self.run_worker(follow(self._connect, self.post_message), group="link")
        if self._alone:
            self.run_worker(self.tidy(), group="tidying")

    async def on_unmount(self) -> None:
        """A connection left open would keep the process from ending."""
        self.workers.cancel_group(self, "link")
        if self.connection is not None:
            await self.connection.close()

    @property
    def colours(self) -> Depth:
        """How many colours the terminal has."""
        if self.no_color:
            return "none"
        return depth_of(self.console.color_system)

    def depth(self) -> Depth:
        """How pictures are painted."""
        return "off" if self.pictures.off else self.colours

    def tone(self, name: str) -> Style:
        return tone_style(self.screen, name)

    @property
    def session(self) -> str:
        welcome = self.connection.welcome if self.connection is not None else None
        return welcome.session if welcome is not None else ""

    @property
    def state(self) -> wire.State:
        return self.known.state

    @property
    def me(self) -> str:
        """The name the daemon knows this client by."""
        return self.known.name_of(self.session)

    @property
    def daemon_id(self) -> str:
        """What drafts are filed under: where the daemon is."""
        return str(getattr(self.connection, "endpoint", "")) or self.where

    # ── requests ────────────────────────────────────────────────────────────────────────────────

    async def ask(
        self,
        request: wire.Request[R],
        *,
        key: str = "",
        on_progress: Progress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the client's own, which cancels there
    ) -> R:
        """The daemon's answer. Raises LoraError, UNREACHABLE while there is no link."""
        return await self._link().call(request, key=key, on_progress=on_progress, timeout=timeout)

    async def fetch(self, request: wire.Request[R]) -> tuple[R, list[bytes]]:
        """The answer and its blobs. Raises LoraError."""
        return await self._link().fetch(request)

    async def picture(self, request: wire.Request[Any]) -> bytes:
        """The picture that comes with an answer, encoded. Raises LoraError."""
        _, blobs = await self.fetch(request)
        if not blobs:
            raise LoraError(Code.INVALID_FILE, "The daemon sent no picture.")
        return blobs[0]

    def _link(self) -> Connection:
        if self.connection is None:
            raise LoraError(
                Code.UNREACHABLE,
                "There is no connection to the daemon just now; try again when it is back.",
                retryable=True,
            )
        return self.connection

    # ── what the daemon tells ───────────────────────────────────────────────────────────────────

    def on_link_made(self, message: LinkMade) -> None:
        self.connection = message.connection
        self.known.state = message.connection.state
        self._linked()

    def _linked(self) -> None:
        assert self.connection is not None
        self.link_problem = ""
        self._ask_status()
        for place in self.every_place():
            place.link_changed()
        for place in self.places():
            place.state_changed(None)
        self._show_lines(now=True)

    def on_link_lost(self, message: LinkLost) -> None:
        self.connection = None
        self._unlinked(message.reason)

    def _unlinked(self, reason: str) -> None:
        reason = reason or "The daemon does not answer."
        self.link_problem = f"{reason} Trying again; nothing you typed is lost."
        for place in self.every_place():
            place.link_changed()
        self._show_lines(now=True)

    def on_noticed(self, message: Noticed) -> None:
        notice = message.notice
        if isinstance(notice, wire.Journalled):
            self.known.state = apply(self.state, notice.event)
            screens: list[Place | Dialog[Any]] = [*self.places(), *self.windows()]
            for screen in screens:
                screen.state_changed(notice.event)
            self._lines_stale = True
        elif isinstance(notice, wire.LiveUpdate):
            self._lines_stale = True
            for value in notice.values:
                self.known.take(value)
                if isinstance(value, wire.FolderSeen) and value.news:
                    self.notify(value.news, severity="warning", timeout=8, markup=False)
            for place in self.places():
                place.live_changed(notice.values)
        elif isinstance(notice, Disconnected):
            reason = "The daemon was stopped." if notice.left else "The daemon does not answer."
            self._unlinked(f"{reason} ({notice.reason})" if notice.reason else reason)
        elif self.connection is not None:
            if isinstance(notice, StateReplaced):
                self.known.state = notice.state
            self._linked()

    def _ask_status(self) -> None:
        async def ask() -> None:
            try:
                status = await self.ask(wire.GetStatus(), timeout=10)
            except LoraError:
                return
            told = self.known.status.warnings if self.known.status is not None else []
            self.known.take_status(status)
            self._lines_stale = True
            for warning in status.warnings:  # in full, once: the status line cuts it
                if warning not in told:
                    self.notify(warning, severity="warning", timeout=12, markup=False)

        if self.connection is not None:
            self.run_worker(ask(), group="status")

    def places(self) -> list[Place]:
        """The screen the person is on; others catch up when they are opened. While the app is being
        taken down, none: their widgets go first."""
        if not self.is_running:
            return []
        return [screen for screen in self.screen_stack if isinstance(screen, Place)]

    def windows(self) -> list[Dialog[Any]]:
        """The windows over that screen."""
        return [screen for screen in self.screen_stack if isinstance(screen, Dialog)]

    def every_place(self) -> list[Place]:
        """Those that were opened, also while another is shown."""
        return [s for stack in self._screen_stacks.values() for s in stack if isinstance(s, Place)]

    def on_import_progressed(self, message: ImportProgressed) -> None:
        from lora_tui.screens.importing import Import

        for screen in self.screen_stack:
            if isinstance(screen, Import):
                screen.progressed(message.done, message.total, message.text)

    def on_import_ended(self, message: ImportEnded) -> None:
        from lora_tui.screens.importing import Import

        for screen in self.screen_stack:
            if isinstance(screen, Import):
                screen.ended(message.result, message.said, message.error)
                return
        self.notify(message.said, severity="error" if message.error else "information", timeout=8)

    # ── the status line ─────────────────────────────────────────────────────────────────────────

    def _show_lines(self, now: bool = False) -> None:
        if now or self._lines_stale:
            self._lines_stale = False
            for place in self.places():
                place.show_lines()

    def status_left(self) -> Said:
        if self.connection is None:
            said = "no link" if self.link_problem else "no daemon yet"
            return [("○ ", "warning"), (said, "")]
        where = self.where or platform.node()
        return self.known.around(where, self.session, not self.link_problem)

    # ── actions ─────────────────────────────────────────────────────────────────────────────────

    def action_help(self) -> None:
        if isinstance(self.screen, Place):
            self.push_screen(Help(self.screen.scope))

    def action_commands(self) -> None:
        self.action_command_palette()

    async def action_pictures(self) -> None:
        await self.pictures.choose()

    def on_resize(self) -> None:
        self.pictures.begin()

    async def action_leave(self) -> None:
        self._leaving = True
        for screens in self._screen_stacks.values():
            for screen in screens:
                leave = getattr(screen, "before_leaving", None)
                if leave is not None:
                    await leave()
        self.farewell = self.known.farewell()
        self.pictures.end()
        self.exit(0)

    async def action_leave_now(self) -> None:
        await self.action_leave()

    def on_key_bar_pressed(self, message: KeyBar.Pressed) -> None:
        scope, _, name = message.action.partition(".")
        target = self if scope == "app" else self.screen
        self.call_later(self.run_action, name, target)

    async def on_places_clicked(self, message: Places.Clicked) -> None:
        await self.action_open(message.place)


def run(
    endpoint: str = "",
    *,
    home: str | None = None,
    name: str = "",
    open_at: str | None = None,
    pictures: PictureMode | None = None,
    slow: bool = False,
) -> int:
    """Open the app on a daemon and return the exit status. ``open_at``: a run to show.

    ``pictures``: how they are shown; else LORA_TUI_PICTURES says it, else the settings.
    Raises LoraError: BAD_REQUEST, INVALID_FILE for what the latter two cannot mean.
    """

    async def connect() -> Connection:
        from shared.client import Client

        return await Client.connect(
            endpoint,
            home=Path(home) if home else None,
            name=name,
            terminal=os.environ.get("TERM", ""),
            subscribe=True,
            start=not endpoint,
        )

    chosen = settings.load()
    app = LoraApp(
        connect,
        where=_host(endpoint),
        open_at=open_at or "",
        terminal=detect(pictures or settings.pictures_of_environment() or chosen.pictures),
        slow=slow or chosen.slow_link,
        alone=True,
    )
    code = app.run()
    if app.farewell:
        print(app.farewell, file=sys.stderr)
    return app.return_code or code or 0


def _host(endpoint: str) -> str:
    """What the status line calls the daemon's machine."""
    if endpoint.startswith("tcp://"):
        return endpoint.removeprefix("tcp://").rsplit(":", 1)[0]
    return platform.node()
