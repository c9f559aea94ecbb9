"""The captioner's window: every name by its key, and what each wants to know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from lora_tui.screens.captioning import summed, tagged
from shared import wire
from shared.captioners import CAPTIONERS
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


async def test_a_prompt_or_a_threshold_is_asked_for_where_there_is_one(
    daemon: standin.Daemon,
) -> None:
    def asks() -> list[wire.CaptionPictures]:
        return [one for one in daemon.asked if isinstance(one, wire.CaptionPictures)]

    async with opened(daemon, "c") as (app, pilot, _):
        await until(pilot, lambda: "wd-swinv2, tags of drawings" in text_of(app))
        assert all(f"{one.key}  {name}, " in text_of(app) for name, one in CAPTIONERS.items())
        if where := os.environ.get("SHOTS"):
            app.save_screenshot(str(Path(where) / "choice.svg"))
        await pilot.press("f")
        await until(pilot, lambda: "What is florence-2 to be asked?" in text_of(app))
        assert "<MORE_DETAILED_CAPTION>" in text_of(app)
        if where:
            app.save_screenshot(str(Path(where) / "prompt.svg"))
        await pilot.press(*"<CAPTION>", "enter")
        await until(pilot, lambda: len(asks()) == 1)
        await pilot.press("c", "w")
        await until(pilot, lambda: "does wd-swinv2 say a tag?" in text_of(app))
        assert "It knows drawings" in text_of(app)
        await pilot.press(*"0.4, solo", "enter")
        await until(pilot, lambda: len(asks()) == 2)
        await pilot.press("c", "v", "escape")
        first, second = asks()
        assert (first.model, first.prompt, first.threshold) == ("florence-2", "<CAPTION>", None)
        assert (second.model, second.prompt) == ("wd-swinv2", "")
        assert (second.threshold, second.blacklist) == (0.4, ["solo"])


def test_what_was_typed_is_a_threshold_and_tags() -> None:
    assert tagged("0.4, solo, long hair,") == (0.4, ["solo", "long hair"])
    assert tagged("solo") == (None, ["solo"])
    assert tagged(" ") == (None, [])


def test_what_is_to_be_known_is_said_with_what_was_written() -> None:
    dataset = standin.Daemon().dataset("d1")
    done = wire.Captioned(
        dataset=dataset, written=1, kept=0, problems=[], warnings=["It knows drawings."]
    )
    assert summed(done) == "creatures: 1 caption written, to be reviewed. It knows drawings."


async def test_under_way_it_is_paused_and_ended_and_news_of_files_are_said(
    daemon: standin.Daemon,
) -> None:
    def steers() -> list[str]:
        return [one.action for one in daemon.asked if isinstance(one, wire.SteerCaptioning)]

    def told(state: Literal["running", "paused"], dataset: str) -> None:
        job = wire.Job(
            id="j1", kind="caption", title="captions for creatures", state=state, done=12,
            total=20, message="", dataset=dataset,
        )  # fmt: skip
        daemon.live(wire.JobChanged(job=job))

    async with opened(daemon) as (app, pilot, _):
        await until(pilot, lambda: "creatures" in text_of(app))
        dataset = app.state.datasets[0].id
        told("running", dataset)
        await until(pilot, lambda: "captions for creatures 12/20" in text_of(app))
        await pilot.press("c")
        await until(pilot, lambda: "12 of 20 pictures captioned." in text_of(app))
        await pilot.press("p")
        await until(pilot, lambda: steers() == ["pause"])
        told("paused", dataset)
        await until(pilot, lambda: "12/20 (paused)" in text_of(app))
        await pilot.press("c", "x")
        await until(pilot, lambda: steers() == ["pause", "cancel"])
        daemon.live(wire.FolderSeen(dataset=dataset, news="The caption of 003.png is another."))
        await until(pilot, lambda: "The caption of 003.png is another." in text_of(app))
