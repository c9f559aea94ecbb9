"""What the fork window foretells, and how options are found as one types."""

from __future__ import annotations

import msgspec
import pytest

from lora_tui.core import forking
from shared import wire
from shared.errors import LoraError
from tests.fixtures.make_workspace import RUN

PARENT = msgspec.structs.replace(RUN, step=20, steps=20, pictures=5)
DETAIL = wire.RunDetail(
    run=PARENT, recipe="[training]\nepochs = 4\nbatch_size = 1\n", directory="", samples=[],
    skipped=[], warnings=[],
    checkpoints=[
        wire.Checkpoint(step=step, epoch=1, path="", size=1, final=step == 20) for step in (10, 20)
    ],
)  # fmt: skip


def test_a_fork_begins_from_what_was_kept_or_from_the_beginning() -> None:
    assert [step for step, _ in forking.steps(DETAIL)] == [-1, 10, 0]


@pytest.mark.parametrize(
    ("settings", "step", "words"),
    [
        (["training.epochs=8"], -1, "from step 20 to 40; nothing begins anew"),
        (["network.rank=16"], -1, "LoRA of step 20, as network.rank does not go with its state"),
        (["optimizer.learning_rate=5e-5"], 10, "LoRA of step 10: takes 20 steps"),
        (["optimizer.learning_rate=5e-5"], 0, "Takes 20 steps from the beginning"),
        ([], -1, "Nothing is set otherwise yet"),
    ],
)
def test_what_goes_on_and_what_begins_anew_is_foretold(
    settings: list[str], step: int, words: str
) -> None:
    assert words in forking.foretold(DETAIL, settings, step)


def test_settings_that_fit_no_state_begin_from_the_last_lora_that_was_kept() -> None:
    going = msgspec.structs.replace(DETAIL, run=msgspec.structs.replace(PARENT, step=27, steps=40))
    assert "LoRA of step 20" in forking.foretold(going, ["network.rank=16"], -1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["network.rank"], "has no value"),
        (["network.rnak=8"], "Did you mean network.rank"),
        (["optimizer.learning_rate=5e-5"], "end at step 20 and begins at 20"),
    ],
)
def test_a_fork_that_cannot_be_is_refused_as_one_types(settings: list[str], words: str) -> None:
    with pytest.raises(LoraError, match=words):
        forking.foretold(DETAIL, settings, -1)


def test_an_option_is_completed_and_explained() -> None:
    assert forking.completed("optimizer.l") == "optimizer.learning_rate="
    assert forking.completed("network.rank=1") is None
    assert "network.rank is 8 in the parent" in forking.about("network.rank=16", DETAIL.recipe)
    assert "network.rank" in forking.about("rank", DETAIL.recipe)


def test_more_steps_are_offered_by_the_epoch_and_the_schedule_is_named() -> None:
    assert forking.epoch(DETAIL)[0] == 5
    assert "with so many from the beginning" in forking.epoch(DETAIL)[1]
    falling = msgspec.structs.replace(DETAIL, recipe='[schedule]\nkind = "cosine"\n')
    assert "cosine schedule is worked out anew" in forking.epoch(falling)[1]


@pytest.mark.parametrize(
    ("state", "message", "offered"),
    [
        (
            "failed",
            "It ran out. `lora-tui run fork r0001 --set training.checkpointing=true --set "
            "base.quantize=int8` goes on from step 20 so.",
            (-1, ["training.checkpointing=true", "base.quantize=int8"]),
        ),
        (
            "failed",
            "Likely cause: it. `lora-tui run fork r0001 --at 10 --set optimizer.learning_rate=1e-4`"
            " goes on from step 10 without it.",
            (10, ["optimizer.learning_rate=1e-4"]),
        ),
        ("failed", "`lora-tui run fork r0001 --at 7 --set a=b` it is.", (-1, ["a=b"])),  # not kept
        ("failed", "The disk is gone.", (-1, [])),
        ("finished", "`lora-tui run fork r0001 --set a=b` was said before.", (-1, [])),
    ],
)
def test_the_window_begins_with_what_a_failed_run_was_offered(
    state: wire.RunState, message: str, offered: tuple[int, list[str]]
) -> None:
    run = msgspec.structs.replace(PARENT, state=state, message=message)
    assert forking.offered(msgspec.structs.replace(DETAIL, run=run)) == offered
