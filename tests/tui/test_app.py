"""The app around the screens: keys, help, palette, keymap, the link, sizes, colours, imports."""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.command import CommandPalette
from textual.screen import ModalScreen, Screen
from textual.scroll_view import ScrollView
from textual.widget import Widget
from textual.widgets import TextArea

import lora_tui
from lora_tui import actions, keymap
from lora_tui.app import LoraApp
from lora_tui.screens.navigate import Commands, Help
from shared.errors import Code, LoraError
from tests.tui import standin
from tests.tui.driving import opened, text_of, until

EVERYWHERE = {place: letter for place, _, letter, _ in actions.PLACES}


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_every_screen_fits(daemon: standin.Daemon, size: tuple[int, int]) -> None:
    async with opened(daemon, size=size) as (app, pilot, _):
        for place, letter in EVERYWHERE.items():
            await pilot.press("escape", "g", letter)
            await until(pilot, lambda place=place: app.screen.scope == place)  # type: ignore[attr-defined]
            await pilot.pause(0.1)
            lines = text_of(app).split("\n")
            assert len(lines) == size[1]
            assert "? help" in lines[-1] and "g go to" in lines[-1]
            for widget in app.screen.query("*"):
                if widget.display and widget.region:
                    inside = app.screen.region
                    shown = widget.region.intersection(inside)
                    assert shown or widget.is_scrollable or widget.parent is not None


async def test_every_action_is_in_help_and_palette_and_has_its_method(
    daemon: standin.Daemon,
) -> None:
    async with opened(daemon, size=(120, 80)) as (app, pilot, _):
        for place, letter in EVERYWHERE.items():
            await pilot.press("escape", "g", letter)
            await until(pilot, lambda place=place: app.screen.scope == place)  # type: ignore[attr-defined]
            for action in actions.of_scope(place):
                assert callable(getattr(app.screen, f"action_{action.name}")), action.id
            await pilot.press("escape", "question_mark")
            await until(pilot, lambda: isinstance(app.screen, Help))
            text = text_of(app)
            here = [*actions.of_scope(place), *actions.of_scope("app")]
            for action in here:
                assert action.id in text, action.id
            await pilot.press("escape", "colon")
            await until(pilot, lambda: isinstance(app.screen, CommandPalette))
            provider = Commands(app.screen_stack[0])
            titles = [hit.display async for hit in provider.discover()]
            assert len(titles) == len(here) + len(actions.PLACES)
            await pilot.press("escape")
        for action in actions.of_scope("app"):
            assert callable(getattr(app, f"action_{action.name}")), action.id


async def test_the_palette_runs_an_action(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("ctrl+p", *"Review: Reject")
        await pilot.pause(0.3)
        await pilot.press("enter")
        await until(pilot, lambda: daemon.items["i0"].caption.state == "rejected")


async def test_g_and_another_key_stays(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", size=(80, 24)) as (app, pilot, _):
        line = text_of(app).splitlines()[-1]
        assert "d Datasets" in line and "b Bases" in line  # all of them
        await pilot.press("z")
        assert "i import" in text_of(app)


async def test_a_keymap_moves_keys_everywhere(daemon: standin.Daemon, tmp_path: Path) -> None:
    path = tmp_path / "config" / "lora-tui" / "keymap.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[review]\naccept = ["A", "f2"]\n[go]\nreview = "w"\n')
    async with opened(daemon, "g", "w") as (app, pilot, _):
        await until(pilot, lambda: "A accept" in text_of(app))
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("space")  # no longer
        await pilot.press("A")
        await until(pilot, lambda: daemon.items["i0"].caption.state == "accepted")
        await pilot.press("f2")
        await until(pilot, lambda: daemon.items["i1"].caption.state == "accepted")


def test_a_keymap_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "keymap.toml"
    path.write_text(
        '[review]\nacept = "a"\nflag = "ctrl+hyper"\nreject = 3\nundo = "space"\n'
        '[runs]\nstop = "F5"\n'
    )
    found = keymap.load(path)
    text = "\n".join(found.problems)
    assert "no action review.acept. Did you mean review.accept?" in text
    assert "no key 'ctrl+hyper'" in text
    assert "review.reject takes a key" in text
    assert "both review.accept and review.undo" in text
    assert found.keys["runs.stop"] == "f5"
    path.write_text("= nonsense")
    assert "could not be read" in keymap.load(path).problems[0]
    assert keymap.load(tmp_path / "none.toml") == keymap.Keymap()
    path.write_text(keymap.example())
    assert keymap.load(path) == keymap.Keymap()


def test_no_two_actions_of_a_screen_share_a_key() -> None:
    for scope in {action.scope for action in actions.ACTIONS}:
        keys = [key for action in actions.of_scope(scope) for key in action.keys.split(",")]
        assert len(keys) == len(set(keys)), scope


async def test_the_link_is_lost_and_found(daemon: standin.Daemon) -> None:
    async with opened(daemon) as (app, pilot, client):
        await until(pilot, lambda: "● box" in text_of(app))
        client.lose()
        await until(pilot, lambda: "Trying again" in text_of(app))
        client.find_again()
        await until(pilot, lambda: "Trying again" not in text_of(app))


async def test_no_daemon_yet_paints_and_goes_on_by_itself(daemon: standin.Daemon) -> None:
    failures = [LoraError(Code.UNREACHABLE, "Nobody listens there.")] * 2

    async def connect() -> Any:
        if failures:
            raise failures.pop()
        return standin.Client(daemon)

    app = LoraApp(connect, where="box")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "Nobody listens there" in text_of(app))
        await until(pilot, lambda: "creatures" in text_of(app))
        assert "Nobody listens" not in text_of(app)


async def test_who_else_is_there_and_what_goes_on(daemon: standin.Daemon) -> None:
    standin.Client(daemon, "bob")
    async with opened(daemon) as (app, pilot, _):
        await until(pilot, lambda: "with bob@here" in text_of(app))
        assert "r0002 training 30 %" in text_of(app)
        await pilot.press("q")
        assert "r0002, r0003 go on in the daemon (pid 4711)" in app.farewell


async def test_without_colour_no_colour_is_sent(
    daemon: standin.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(daemon, "g", "r") as (app, pilot, _):
        assert app.depth() == "none"
        await until(pilot, lambda: "step 120/400" in text_of(app))
        for strip in app.screen._compositor.render_strips():
            for segment in strip.apply_filter(
                app.get_line_filters()[-1], app.screen.background_colors[1]
            ):
                style = segment.style
                for colour in (style.color, style.bgcolor) if style else ():
                    assert colour is None or colour.is_default


async def test_sixteen_colours(daemon: standin.Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    monkeypatch.delenv("COLORTERM")
    async with opened(daemon) as (app, pilot, _):
        assert app.depth() == "16" and app.theme == "lora-ansi"
        await until(pilot, lambda: "▀" in text_of(app))


async def test_pictures_can_be_off(daemon: standin.Daemon) -> None:
    async with opened(daemon, pictures=False) as (app, pilot, _):
        await until(pilot, lambda: "Pictures are off" in text_of(app))
        assert "▀" not in text_of(app)


def test_a_list_of_100_000_is_quick(daemon: standin.Daemon) -> None:
    async def drive() -> float:
        big = standin.Daemon()
        big.fill([])
        big.order = [f"i{n}" for n in range(100_000)]

        class Lazy(dict[str, Any]):
            def __missing__(self, key: str) -> Any:
                return standin.item(int(key[1:]))

        big.items = Lazy()
        old = big.state.datasets[0]
        from msgspec.structs import replace

        big.state = replace(big.state, datasets=[replace(old, items=100_000)])
        async with opened(big) as (app, pilot, _):
            await until(pilot, lambda: "100 000 pictures" in text_of(app))
            await pilot.press("enter")
            began = time.process_time()
            await pilot.press("end")
            await until(pilot, lambda: "99999.png" in text_of(app))
            await pilot.press("up", "up", "pageup", "home")
            await until(pilot, lambda: "000.png" in text_of(app))
            return time.process_time() - began

    assert asyncio.run(drive()) < 3


def test_first_paint_imports_neither_numpy_nor_pillow_nor_the_daemon() -> None:
    code = (
        "import sys, json\n"
        "import lora_tui.app, lora_tui.screens.datasets, lora_tui.screens.runs\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"numpy", "PIL", "torch", "lora_daemon", "zmq"}


def test_nothing_of_textual_is_shadowed() -> None:
    """An attribute of Textual's own under our name breaks it silently (``_running`` did)."""
    bases: list[Any] = [Widget(), Screen(), ModalScreen(), App(), TextArea(), ScrollView()]
    taken = {name for base in bases for name in {*dir(base), *vars(base)}}
    allowed = {
        "_filters", "read_only", "can_focus", "show_cursor", "virtual_size", "theme", "text",
        "placeholder", "border_title", "border_subtitle",
    }  # fmt: skip
    found = []
    here = Path(lora_tui.__file__).parent
    for path in [*here.glob("app.py"), *here.glob("screens/*.py"), *here.glob("widgets/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found += [
                    f"{path.name}: {node.name}.{n.attr}"
                    for n in ast.walk(node)
                    if isinstance(n, ast.Attribute)
                    and isinstance(n.ctx, ast.Store)
                    and isinstance(n.value, ast.Name)
                    and n.value.id == "self"
                    and n.attr in taken - allowed
                ]
    assert not found


async def test_news_that_come_while_it_is_taken_down_are_let_go(daemon: standin.Daemon) -> None:
    async with opened(daemon) as (app, _, _):
        pass
    app._lines_stale = True
    app._show_lines()
    assert app.places() == []
