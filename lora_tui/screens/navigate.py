"""``g`` and a letter, the help, the palette: all three read the table of actions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.containers import Vertical, VerticalScroll
from textual.dom import DOMNode
from textual.widgets import Static

from lora_tui.actions import BY_ID, PLACES, Action, of_scope
from lora_tui.core.summary import Said
from lora_tui.keymap import Keymap
from lora_tui.screens.base import Dialog, Place
from lora_tui.widgets.bind import bindings
from shared.paths import config_dir


def go_hint(keymap: Keymap) -> Said:
    """The line after ``g``: where the next letter goes. All of them fit in 80 columns."""
    said: Said = []
    for name, title, _, _ in PLACES:
        said += [(keymap.shown(BY_ID[f"go.{name}"]), "accent bold"), (f" {title}  ", "")]
    return [*said, ("go to · any other key: stay", "muted")]


_IN_REVIEW = (
    ("edit", "While a caption is edited"),
    ("chips", "While its tags are in hand"),
    ("entry", "While a tag is typed"),
    ("suggest", "While tags are suggested"),
    ("parts", "Where a candidate is compared word by word"),
)


class Help(Dialog[None]):
    """What this screen is for, and every key that works on it."""

    BINDINGS = [
        *bindings("page"),
        Binding("question_mark", "close", "close", id="page.close_help"),
    ]

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def compose(self) -> ComposeResult:
        title, text = next((t, x) for name, t, _, x in PLACES if name == self._place)
        with Vertical(classes="window -page") as window:
            window.border_title = f"{title}: keys"
            window.border_subtitle = "esc: close"
            with VerticalScroll():
                yield Static(Text(text, style="bold"), classes="lead")
                yield Static(self._table(of_scope(self._place)))
                yield Static("In lists", classes="part")
                yield Static(self._table(of_scope("list")))
                yield Static("Everywhere", classes="part")
                yield Static(self._table([*of_scope("app"), *of_scope("go")]))
                if self._place == "review":
                    for scope, title in _IN_REVIEW:
                        yield Static(title, classes="part")
                        yield Static(self._table(of_scope(scope)))
                yield Static(
                    Text(
                        f"Your own keys go into {config_dir() / 'keymap.toml'}, "
                        f'such as:  "{self._place}.{of_scope(self._place)[0].name}" = "F5". '
                        "The grey names are what to write there."
                    ),
                    classes="part",
                )

    def _table(self, actions: list[Action]) -> Table:
        keymap = self.lora.keymap
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(width=14, no_wrap=True)
        table.add_column(ratio=1)
        table.add_column(justify="right", no_wrap=True)
        keys = self.lora.tone("primary bold")
        faint = self.lora.tone("faint")
        for action in actions:
            before = keymap.shown(BY_ID["app.go"]) + " " if action.scope == "go" else ""
            table.add_row(
                Text(before + keymap.all_shown(action), style=keys),
                Text(action.help if action.scope != "go" else f"{action.label}. {action.help}"),
                Text(action.id, style=faint),
            )
        return table

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_close(self) -> None:
        self.dismiss(None)


class Commands(Provider):
    """Every action of where you are, by its name."""

    def _actions(self) -> list[Action]:
        scope = self.screen.scope if isinstance(self.screen, Place) else ""
        return [*of_scope(scope), *of_scope("app"), *of_scope("go")]

    def _title(self, action: Action) -> str:
        title = next((t for name, t, _, _ in PLACES if name == action.scope), "")
        if action.scope == "go":
            return f"Go to {action.label}"
        label = action.label[0].upper() + action.label[1:]
        return f"{title}: {label}" if title else label

    async def discover(self) -> Hits:
        for action in self._actions():
            yield DiscoveryHit(
                self._title(action), self._command(action), help=self._remark(action)
            )

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for action in self._actions():
            title = self._title(action)
            score = max(matcher.match(title), matcher.match(action.help) * 0.8)
            if score > 0:
                yield Hit(
                    score, matcher.highlight(title), self._command(action),
                    help=self._remark(action),
                )  # fmt: skip

    def _remark(self, action: Action) -> str:
        app = self.app
        shown = getattr(app, "keymap", None)
        key = shown.shown(action) if shown is not None else action.keys
        return f"{key} · {action.help}"

    def _command(self, action: Action) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            name, target = self._target(action)
            await self.app.run_action(name, target)

        return run

    def _target(self, action: Action) -> tuple[str, DOMNode]:
        if action.scope == "go":
            return f"open({action.name!r})", self.app
        if action.scope == "app":
            return action.name, self.app
        return action.name, self.screen
