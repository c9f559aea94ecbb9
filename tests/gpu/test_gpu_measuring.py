"""Measuring on a GPU: losses, drift, leak, probes, inputs, remedies and captions, as on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_daemon import starter as packaged
from lora_daemon.engine import captioner
from lora_daemon.starter import blip, world
from tests.engine.test_effects import (
    files,
    test_a_lora_takes_part_in_its_part_of_the_steps,
    test_a_step_goes_further_along_what_a_lora_adds,
    test_the_effect_in_a_picture_is_what_the_lora_takes_off_the_error,
    test_they_are_the_predictions_less_the_plain_ones,
)
from tests.engine.test_inputs import test_the_overlap_is_that_of_the_outputs
from tests.engine.test_measuring import (
    frozen,
    studio,
    test_a_copy_is_nearer_than_relatives_are,
    test_a_leak_compares_the_captions_without_and_with_the_word,
    test_an_average_is_the_average_of_the_changes_of_the_weights,
    test_drift_is_nothing_without_a_lora_and_grows_with_it,
    test_the_loss_is_over_fixed_noise_and_its_negative,
)

pytestmark = pytest.mark.gpu


def test_the_packaged_captioner_says_what_is_drawn_in_the_precision_of_auto(
    device: torch.device,
) -> None:
    loaded = captioner.load(packaged.blip_dir(), device)
    scenes = list(world.scenes(16, seed=71, split="held-out", crowd=0))
    said = loaded([world.draw(scene) for scene in scenes])
    right = blip.right(said, scenes)
    assert right["colour"] >= 13 and right["background"] >= 13, said
