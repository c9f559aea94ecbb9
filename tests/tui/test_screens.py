"""Datasets, Train, Runs and Library: every key does what the table of actions says."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from textual.widgets import Input, Select, Static

from lora_tui.actions import PLACES
from lora_tui.app import LoraApp
from lora_tui.screens.base import Place
from lora_tui.screens.datasets import Datasets
from lora_tui.screens.dialogs import Confirm, Page
from lora_tui.screens.importing import Import
from lora_tui.screens.library import Library
from lora_tui.screens.review import Review
from lora_tui.screens.runs import Runs
from lora_tui.screens.train import Train
from lora_tui.widgets.picture import PictureView
from shared import recipe, wire
from shared.errors import Code, LoraError
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


def asked(daemon: standin.Daemon, kind: type) -> list[wire.Request[object]]:
    return [request for request in daemon.asked if isinstance(request, kind)]


@pytest.mark.parametrize("letter", [key for *_, key, _ in PLACES])
async def test_every_screen_is_built_once(
    daemon: standin.Daemon, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Place] = []
    on_mount = Place.on_mount

    def counted(place: Place) -> None:
        built.append(place)
        on_mount(place)

    monkeypatch.setattr(Place, "on_mount", counted)
    async with opened(daemon, "g", letter) as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Place) and app.screen.built)
        assert built.count(app.screen) == 1


# ── Datasets ────────────────────────────────────────────────────────────────────────────────────


async def test_datasets_lists_counts_and_shows_picture_and_caption(daemon: standin.Daemon) -> None:
    async with opened(daemon) as (app, pilot, _):
        await until(pilot, lambda: "number 0" in text_of(app))
        text = text_of(app)
        assert "creatures" in text and "20 unreviewed" in text
        assert "▀" in text  # the picture, in half-blocks
        await pilot.press("enter", "down", "down")
        await until(pilot, lambda: "number 2" in text_of(app))


async def test_datasets_imports_a_folder(daemon: standin.Daemon) -> None:
    empty = standin.Daemon()
    async with opened(empty, "i") as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Import))
        await pilot.press("enter")
        assert "Type a path first" in text_of(app)
        await pilot.press(*"nowhere", "enter")
        await until(pilot, lambda: "There is no folder nowhere" in text_of(app))
        app.screen.query_one("#path", Input).value = "/pictures/creatures"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Datasets))
        await until(pilot, lambda: "5 pictures" in text_of(app))


async def test_an_import_can_be_cancelled_and_left_alone(daemon: standin.Daemon) -> None:
    import asyncio

    daemon.held = asyncio.Event()
    async with opened(daemon, "i") as (app, pilot, _):
        app.screen.query_one("#path", Input).value = "/pictures"
        await pilot.press("enter")
        await until(pilot, lambda: app.imports.running)
        await pilot.press("ctrl+b")
        await until(pilot, lambda: isinstance(app.screen, Datasets))
        assert app.imports.running
        await pilot.press("X", "y")
        await until(pilot, lambda: not app.imports.running)


async def test_datasets_filter_review_train_and_forget(daemon: standin.Daemon) -> None:
    async with opened(daemon) as (app, pilot, _):
        await until(pilot, lambda: "number 0" in text_of(app))
        await pilot.press("slash", *"NOT state:accepted number", "enter")
        await until(pilot, lambda: "20 of 20 pictures · only NOT state:accepted" in text_of(app))
        await pilot.press("slash", "up", "up", "ctrl+u", "enter", "enter", "down", "v")
        await until(pilot, lambda: "caption of 001.png" in text_of(app))
        await pilot.press("g", "d", "t")
        await until(pilot, lambda: isinstance(app.screen, Train))
        await pilot.press("escape", "g", "d", "D")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "/pictures/creatures" in text_of(app)
        await pilot.press("n")
        assert not asked(daemon, wire.RemoveDataset)
        await pilot.press("D", "y")
        await until(pilot, lambda: "No datasets yet" in text_of(app))


# ── Train ───────────────────────────────────────────────────────────────────────────────────────


async def test_train_lists_recipes_with_their_whole_titles_in_a_small_terminal(
    daemon: standin.Daemon,
) -> None:
    async with opened(daemon, "g", "t", size=(80, 24)) as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.focused, Select))
        await pilot.press("enter")
        longest = "lesson-kohya · The lesson, kohya's way: rank 32, text encoder, restarts"
        await until(pilot, lambda: longest in text_of(app))


async def test_train_counts_says_what_is_wrong_and_starts(daemon: standin.Daemon) -> None:
    detail, blobs = daemon.on_GetRun(wire.GetRun(run="r0001"), "")
    warned = replace(detail, warnings=["5 of 20 pictures have no caption."])
    daemon.on_GetRun = lambda *_: (warned, blobs)  # type: ignore[method-assign]
    async with opened(daemon, "g", "t") as (app, pilot, _):
        await until(pilot, lambda: "200 steps" in text_of(app))
        screen = app.screen
        assert isinstance(screen, Train)
        screen.field("training.max_steps").query_one(Input).value = "150"
        await until(pilot, lambda: "epochs, ended by max steps = 150 steps" in text_of(app))
        screen.field("training.max_steps").query_one(Input).value = "0"
        screen.field("training.epochs").query_one(Input).value = "0"
        await until(pilot, lambda: "must be a whole number" in text_of(app))
        await pilot.press("ctrl+s")
        assert not asked(daemon, wire.StartRun)
        screen.field("training.batch_size").query_one(Input).value = "1"
        screen.field("training.epochs").query_one(Input).value = "3"
        await until(pilot, lambda: "× 3 epochs = 60 steps" in text_of(app))
        screen.field("sample.prompts").query_one(Input).value = "a cat | a dog"
        screen.set_focus(screen.field("sample.prompts").entry)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, Runs))
        [start] = asked(daemon, wire.StartRun)
        made = recipe.parse(start.recipe)  # type: ignore[attr-defined]
        assert made.training.epochs == 3 and made.dataset.name == "creatures"
        assert made.sample.prompts == ["a cat", "a dog"]
        await until(pilot, lambda: "r0004" in text_of(app))
        await until(pilot, lambda: "5 of 20 pictures have no caption" in text_of(app))
        assert not isinstance(screen.focused, Input)  # letters are keys when one comes back


@pytest.mark.parametrize(("key", "asks"), [("s", "StartRun"), ("c", "CheckRecipes")])
async def test_train_shows_the_field_that_the_daemon_refuses_also_among_all_options(
    daemon: standin.Daemon, key: str, asks: str
) -> None:
    def refuse(request: object, by: str) -> object:
        why = "network.ranks: OUT99=4 fits none of the modules that are trained."
        raise LoraError(Code.INVALID_RECIPE, why, data={"key": "network.ranks"})

    setattr(daemon, f"on_{asks}", refuse)
    async with opened(daemon, "g", "t") as (app, pilot, _):
        screen = app.screen
        assert isinstance(screen, Train)
        await until(pilot, lambda: screen.field("dataset.name").text == "creatures")
        await pilot.press("escape", key)
        await until(pilot, lambda: "network.ranks" in screen.fields())
        await until(pilot, lambda: screen.field("network.ranks").entry.has_focus)
        assert screen.field("network.ranks").has_class("-wrong")


async def test_train_names_the_keys_that_work_in_a_field(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "t") as (app, pilot, _):
        screen = app.screen
        assert isinstance(screen, Train)
        await until(pilot, lambda: "s start" in text_of(app).splitlines()[-1])
        screen.field("training.epochs").entry.focus()
        await until(
            pilot, lambda: text_of(app).splitlines()[-1].startswith(" esc leave field  ^s start  ")
        )
        assert "g go to" not in text_of(app).splitlines()[-1]
        await pilot.press("escape")
        await until(pilot, lambda: text_of(app).splitlines()[-1].startswith(" s start"))


@pytest.mark.parametrize("place", ["m", "l"])
async def test_every_screen_with_fields_names_the_keys_that_work_in_them(
    place: str, daemon: standin.Daemon
) -> None:
    def last_line() -> str:
        return text_of(app).splitlines()[-1]

    async with opened(daemon, "g", place) as (app, pilot, _):
        await until(pilot, lambda: "g go to" in last_line())
        before = last_line()
        await pilot.press("e")
        await until(pilot, lambda: last_line().strip() == "esc leave field  ^p commands")
        await pilot.press("escape")
        await until(pilot, lambda: last_line() == before)


async def test_train_has_every_option_and_templates(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "t") as (app, pilot, _):
        screen = app.screen
        assert isinstance(screen, Train)
        await pilot.press("escape", "a")
        await until(pilot, lambda: len(screen.fields()) == len(list(recipe.options())))
        screen.query_one("#templates", Select).value = "lesson"
        await until(pilot, lambda: screen.field("network.rank").text == "4")
        assert screen.field("dataset.name").text == "creatures"
        screen.field("network.rank").query_one(Input).value = "77"
        await pilot.press("escape", "c", "R", "y")
        await until(pilot, lambda: screen.field("network.rank").text == "4")


def said(app: LoraApp) -> list[str]:
    return [notice.message for notice in app._notifications]


async def test_train_checks_for_the_base_and_the_dataset_too(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "t") as (app, pilot, _):
        screen = app.screen
        assert isinstance(screen, Train)
        await until(pilot, lambda: screen.field("dataset.name").text == "creatures")
        await pilot.press("escape", "c")
        await until(pilot, lambda: "Nothing is wrong with this recipe." in said(app))
        app.clear_notifications()
        screen.query_one("#templates", Select).value = "lesson"
        wrong = screen.field("base.name").query_one(".wrong", Static)
        await until(pilot, lambda: "this daemon has no such base yet" in str(wrong.visual))
        await pilot.press("escape", "c")
        await until(pilot, lambda: "base.name: this daemon has no such base yet" in said(app))
        assert "Nothing is wrong with this recipe." not in said(app)
        assert "this daemon has no such base yet" in str(wrong.visual)
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert not asked(daemon, wire.StartRun)
        screen.field("base.name").fill("starter")
        screen.field("dataset.name").fill("gone")
        sums = screen.query_one("#sum", Static)
        await until(pilot, lambda: "no dataset gone here" in str(sums.visual))
        await until(pilot, lambda: not str(wrong.visual))
        await pilot.press("escape", "c")
        await until(pilot, lambda: "dataset.name: this daemon has no such dataset" in said(app))


async def test_train_leads_to_a_field_that_the_short_form_hides(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "t") as (app, pilot, _):
        screen = app.screen
        assert isinstance(screen, Train)
        assert screen._form.texts["schedule.warmup_steps"] == "100"
        screen.field("training.max_steps").fill("60")
        sums = screen.query_one("#sum", Static)
        hint = "a outside a field shows schedule.warmup_steps"
        await until(pilot, lambda: hint in str(sums.visual))
        await pilot.press("escape", "c")
        await until(pilot, lambda: "schedule.warmup_steps" in screen.fields())
        warmup = screen.field("schedule.warmup_steps")
        await until(pilot, lambda: warmup.entry.has_focus)
        assert "would last the whole run" in str(warmup.query_one(".wrong", Static).visual)
        await until(pilot, lambda: hint not in str(sums.visual))


# ── Runs ────────────────────────────────────────────────────────────────────────────────────────


async def test_runs_shows_the_run_and_its_series(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "r") as (app, pilot, _):
        await until(pilot, lambda: "step 120/400" in text_of(app))
        assert "sample 2 of 2" in text_of(app)
        daemon.live(
            wire.RunProgress(
                run="r0002", phase="training", done=0, total=0, step=150, epoch=4, speed=14.0,
                eta=18.0, loss=0.1,
                points=[wire.LivePoint(s, 0.2, 1e-4, 0.5, 1.7e9 + s) for s in range(121, 151)],
            ),
            standin.device(),
        )  # fmt: skip
        await until(pilot, lambda: "step 150/400" in text_of(app))
        text = text_of(app)
        assert "14.0 it/s" in text and "eta 0:18" in text
        assert "loss 0.1000" in text  # the daemon's mean, not the curve's end
        assert "no GPU" in text and "5.0" in text
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "sample 1 of 2" in text_of(app))
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "sample 2 of 2" in text_of(app))


async def test_runs_promises_samples_only_where_the_recipe_has_prompts(
    daemon: standin.Daemon,
) -> None:
    daemon.state = replace(daemon.state, pictures=[])
    answer = daemon.on_GetRun

    def prompted(request: wire.GetRun, by: str) -> object:
        detail, blobs = answer(request, by)
        text = '[sample]\nprompts = ["a cat"]' if request.run == "r0003" else ""
        return replace(detail, recipe=text), blobs

    daemon.on_GetRun = prompted  # type: ignore[method-assign]
    async with opened(daemon, "g", "r") as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Runs) and app.screen.run_shown)
        runs = app.screen
        assert isinstance(runs, Runs)
        panel = runs.query_one("#picture", PictureView)
        for number, said in (
            (1, "No samples: the recipe has no sample.prompts."),
            (3, "No samples yet; s makes some now."),
        ):
            entry = next(e for e in runs._entries if e.key == f"r000{number}")
            runs._open(entry)
            await until(pilot, lambda said=said: said in panel._said)


async def test_runs_steers(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "r") as (app, pilot, _):
        await until(pilot, lambda: "step 120/400" in text_of(app))
        await pilot.press("s", "k", "p")
        await until(pilot, lambda: "‖ r0002" in text_of(app))
        await pilot.press("p")
        await until(pilot, lambda: "● r0002" in text_of(app))
        assert asked(daemon, wire.SteerRun) == [
            wire.SteerRun(run="r0002", action="sample"),
            wire.SteerRun(run="r0002", action="save"),
            wire.SteerRun(run="r0002", action="pause"),
            wire.SteerRun(run="r0002", action="resume"),
        ]


async def test_runs_stop_and_delete_ask_once(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "r") as (app, pilot, _):
        await until(pilot, lambda: "step 120/400" in text_of(app))
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("escape")
        assert not asked(daemon, wire.SteerRun)
        await pilot.press("x", "y")
        await until(pilot, lambda: "■ r0002" in text_of(app))
        await pilot.press("D")
        await until(pilot, lambda: "Delete r0" in text_of(app))
        await pilot.press("y")
        await until(pilot, lambda: len(daemon.state.runs) == 2)


async def test_runs_details_log_and_filter(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "r") as (app, pilot, _):
        await until(pilot, lambda: "step 120/400" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Page) and "bad.png" in text_of(app))
        await pilot.press("escape", "l")
        await until(pilot, lambda: isinstance(app.screen, Page) and "line 1999" in text_of(app))
        await pilot.press("escape", "slash", *"later", "enter")
        await until(pilot, lambda: "○ r0003" in text_of(app) and "r0001" not in text_of(app))


async def test_the_app_opens_on_a_run(daemon: standin.Daemon) -> None:
    async with opened(daemon, open_at="r0001") as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Runs) and "✓ r0001" in text_of(app))


async def test_a_failed_run_says_why(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "r") as (app, pilot, _):
        await until(pilot, lambda: "step 120/400" in text_of(app))
        failed = standin.run_of(2, state="failed", message="The loss became NaN at step 130.")
        daemon.event(wire.RunChanged(run=failed))
        await until(pilot, lambda: "The loss became NaN" in text_of(app))


# ── Library ─────────────────────────────────────────────────────────────────────────────────────


async def test_library_paints_without_and_with(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "l") as (app, pilot, _):
        await until(pilot, lambda: "128 unet" in text_of(app))
        await pilot.press("left", "left", "right", "enter")
        await until(pilot, lambda: len(asked(daemon, wire.Generate)) == 2)
        plain, styled = asked(daemon, wire.Generate)
        assert plain.spec.loras == []  # type: ignore[attr-defined]
        [use] = styled.spec.loras  # type: ignore[attr-defined]
        assert (use.lora, use.weight) == ("creatures", 0.9)
        assert "with creatures at 0.9" in text_of(app)
        await until(pilot, lambda: not app.screen._painting)  # type: ignore[attr-defined]
        await pilot.press("right", "enter")  # the picture without is known already
        await until(pilot, lambda: len(asked(daemon, wire.Generate)) == 3)
        await until(pilot, lambda: not app.screen._painting)  # type: ignore[attr-defined]
        before = app.screen.query_one("#seed", Input).value
        await pilot.press("n")
        assert app.screen.query_one("#seed", Input).value != before


async def test_library_says_what_of_a_lora_was_left_out(daemon: standin.Daemon) -> None:
    daemon.notes = ["creatures: this base has no place for [3] modules."]
    async with opened(daemon, "g", "l") as (app, pilot, _):
        await until(pilot, lambda: "128 unet" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: "no place for [3] modules" in " ".join(text_of(app).split()))


async def test_library_edits_the_prompt_and_says_what_is_wrong(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "l") as (app, pilot, _):
        await until(pilot, lambda: "128 unet" in text_of(app))
        await pilot.press("e", "end", *" gdx?", "escape")
        assert app.screen.query_one("#prompt", Input).value.endswith(" gdx?")
        app.screen.query_one("#steps", Input).value = "many"
        await pilot.press("enter")
        await until(pilot, lambda: "steps is a number" in text_of(app).replace("\n", " "))
        assert not asked(daemon, wire.Generate)


async def test_library_asks_for_a_prompt_before_it_paints(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "l") as (app, pilot, _):
        await until(pilot, lambda: "128 unet" in text_of(app))
        prompt = app.screen.query_one("#prompt", Input)
        prompt.value = " "
        await pilot.press("enter")
        await until(pilot, lambda: "Say what to paint: there is no prompt yet." in said(app))
        await until(pilot, lambda: prompt.has_focus)
        assert not asked(daemon, wire.Generate)
        await pilot.press(*"cat", "enter")
        await until(pilot, lambda: len(asked(daemon, wire.Generate)) == 2)


async def test_library_cancels_filters_and_deletes(daemon: standin.Daemon) -> None:
    import asyncio

    daemon.held = asyncio.Event()
    async with opened(daemon, "g", "l") as (app, pilot, _):
        await until(pilot, lambda: "128 unet" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: "waiting for the engine" in text_of(app))
        await pilot.press("c")
        await until(pilot, lambda: "Cancelled" in text_of(app))
        daemon.held.set()
        await pilot.press("slash", *"zzz", "enter")
        await until(pilot, lambda: "No LoRA has 'zzz'" in text_of(app))
        await pilot.press("slash", "backspace", "backspace", "backspace", "enter")
        await until(pilot, lambda: isinstance(app.screen, Library) and "128 unet" in text_of(app))
        await pilot.press("D", "y")
        await until(pilot, lambda: not daemon.state.loras)


async def test_library_tells_all_of_a_lora_and_lists_a_folder(
    daemon: standin.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(daemon, "g", "l") as (app, pilot, _):
        said: list[str] = []  # a toast is gone before a busy machine looks
        notify = app.notify
        monkeypatch.setattr(app, "notify", lambda text, **more: said.append(text) or notify(text))
        await until(pilot, lambda: "128 unet" in text_of(app))
        await pilot.press("i")
        await until(pilot, lambda: "Of rank 16, 4.0 are in effect" in text_of(app))
        assert "dragon 11" in text_of(app) and "Rank 2 would do" in text_of(app)
        await pilot.press("w")
        await until(pilot, lambda: "0.6 to begin with, on starter" in text_of(app))
        await pilot.press("escape", "a", *"/loras", "enter")
        await until(pilot, lambda: "1 LoRA listed." in said)
        [request] = asked(daemon, wire.IndexLoras)
        assert request.folder == "/loras"  # type: ignore[attr-defined]


# ── two at once ─────────────────────────────────────────────────────────────────────────────────


async def test_what_one_does_the_other_sees(daemon: standin.Daemon) -> None:
    async with (
        opened(daemon, "g", "r") as (one, first, _),
        opened(daemon, "g", "r") as (two, second, _b),
    ):
        await until(first, lambda: "step 120/400" in text_of(one))
        await first.press("p")
        await until(second, lambda: "‖ r0002" in text_of(two), seconds=2)
        old = daemon.items["i0"]
        await second.press("g", "v")
        await until(second, lambda: "000.png" in text_of(two))
        daemon.put(replace(old, caption=replace(old.caption, text="from one")))
        await until(second, lambda: "from one" in text_of(two), seconds=2)
        assert isinstance(two.screen, Review)


async def test_a_captioner_fills_what_is_empty_of_the_dataset(daemon: standin.Daemon) -> None:
    async with opened(daemon, "c") as (app, pilot, _):
        assert "Every picture has a caption. Who writes candidates beside them?" in text_of(app)
        await pilot.press("s")
        await until(pilot, lambda: bool(asked(daemon, wire.CaptionPictures)))
        assert asked(daemon, wire.CaptionPictures)[0].beside  # type: ignore[attr-defined]
        daemon.asked.clear()
        daemon.fill([standin.item(0), standin.item(1, text="")])
        daemon.event(wire.DatasetChanged(dataset=daemon.dataset("d1")))
        await until(pilot, lambda: "1 without caption" in text_of(app))
        await pilot.press("c")
        await until(pilot, lambda: "Who fills 1 empty caption?" in text_of(app))
        await pilot.press("s")
        await until(pilot, lambda: "2 captions written, to be reviewed" in text_of(app))
        assert "torn.png: it is torn" in text_of(app).replace("\n", " ")
        await pilot.press("g", "v", "c", "o", *"/blip", "enter")
        await until(pilot, lambda: len(asked(daemon, wire.CaptionPictures)) == 2)
        first, other = asked(daemon, wire.CaptionPictures)
        assert (first.model, other.model) == ("starter", "/blip")  # type: ignore[attr-defined]
