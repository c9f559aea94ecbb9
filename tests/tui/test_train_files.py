"""Train opens recipes from files, kohya's too, and writes what stands in the form."""

from __future__ import annotations

from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input, Select

from lora_tui.app import LoraApp
from lora_tui.screens.dialogs import AskText, Page
from lora_tui.screens.train import Train
from shared import recipe
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


async def answer(app: LoraApp, pilot: Pilot[int], key: str, text: str) -> None:
    """Press a key of Train, and answer what it asks."""
    await until(pilot, lambda: isinstance(app.screen, Train) and app.screen.built)
    await pilot.press("escape", key)
    await until(pilot, lambda: isinstance(app.screen, AskText))
    app.screen.query_one(Input).value = text
    await pilot.press("enter")


def field(app: LoraApp, key: str) -> str:
    return app.screen.field(key).text if isinstance(app.screen, Train) else ""


async def test_kohyas_files_fill_the_form_and_each_option_gets_its_word(
    daemon: standin.Daemon, tmp_path: Path
) -> None:
    config = tmp_path / "my config.toml"
    config.write_text(
        "[network]\nnetwork_dim = 24\nnetwork_alpha = 12\n[training]\nmax_train_epochs = 3\n"
        "vae = '/v.pt'\nmultires_noise_iterations = 6\nnoise_offset = 0.1\n"
    )
    (tmp_path / "sample.txt").write_text("a blue house --d 3\n")
    async with opened(daemon, "g", "t", size=(80, 24)) as (app, pilot, _):
        await answer(app, pilot, "o", f"'{config}' {tmp_path / 'sample.txt'}")
        await until(pilot, lambda: isinstance(app.screen, Page) and "vae /v.pt" in text_of(app))
        assert "the base's own VAE is used" in text_of(app)
        await pilot.press("escape")
        await until(pilot, lambda: field(app, "network.rank") == "24")
        assert field(app, "network.alpha") == "12" and field(app, "training.epochs") == "3"
        assert field(app, "sample.prompts") == "a blue house"
        assert field(app, "dataset.name") == "creatures"  # the one that was chosen stays
        assert "yours: my config" in str(app.screen.query_one("#templates", Select).value)


async def test_what_stands_in_the_form_is_written_and_opened_again(
    daemon: standin.Daemon, tmp_path: Path
) -> None:
    async with opened(daemon, "g", "t") as (app, pilot, _):
        await until(pilot, lambda: field(app, "dataset.name") == "creatures")
        app.screen.field("network.rank").entry.value = "7"  # type: ignore[attr-defined]
        await until(pilot, lambda: field(app, "network.rank") == "7")
        await answer(app, pilot, "S", str(tmp_path / "mine.toml"))
        await until(pilot, (tmp_path / "mine.toml").exists)
        assert recipe.load(tmp_path / "mine.toml").network.rank == 7
        before = (tmp_path / "mine.toml").read_text()
        await answer(app, pilot, "S", str(tmp_path / "mine.toml"))
        await until(pilot, lambda: "is there already" in text_of(app))
        assert (tmp_path / "mine.toml").read_text() == before
        await pilot.press("R", "y")
        await until(pilot, lambda: field(app, "network.rank") not in ("7", ""))
        await answer(app, pilot, "o", str(tmp_path / "mine.toml"))
        await until(pilot, lambda: field(app, "network.rank") == "7")
        await answer(app, pilot, "o", str(tmp_path / "none.toml"))
        await until(pilot, lambda: "none.toml" in text_of(app))
        assert field(app, "network.rank") == "7"
