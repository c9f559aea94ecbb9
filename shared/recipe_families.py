"""Options that a family of bases has no use for: each with the sentence that says why."""

from __future__ import annotations

from shared.recipe_schema import Recipe

FLOWS = ("flux", "flux_schnell")  # families that are trained by flow matching
FLOW_VERSIONS = ("flux1",)  # what their LoRA files say to be for
_FLUX_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff", "mod")
_FLOW = "it learns the velocity of a flow"


def unsuited(recipe: Recipe, family: str) -> tuple[str, str]:
    """The first option of a recipe that a base of this family cannot follow, and why not, as a
    sentence; two empty strings if there is none."""
    for key, wrong, why in _flow(recipe, family) if family in FLOWS else _diffusion(recipe, family):
        if wrong:
            return key, why
    return "", ""


def _diffusion(recipe: Recipe, family: str) -> list[tuple[str, bool, str]]:
    return [
        (
            "dataset.clip_skip", family == "sdxl" and recipe.dataset.clip_skip != 1,
            f"dataset.clip_skip = {recipe.dataset.clip_skip}: of an SDXL always the last layer but "
            "one is read. Leave it at 1.",
        ),
        (
            "noise.shift", recipe.noise.shift != 1.0,
            f"noise.shift = {recipe.noise.shift:g} is for bases that learn a flow, such as FLUX. "
            "Leave it at 1; noise.density_mean moves the timesteps here.",
        ),
        (
            "training.guidance", recipe.training.guidance != 1.0,
            f"training.guidance = {recipe.training.guidance:g} is for bases that guidance was "
            "distilled into, such as FLUX.1 dev. Leave it at 1.",
        ),
        (
            "network.targets", "mod" in recipe.network.targets,
            'network.targets: only FLUX has modulation layers. Take "mod" out.',
        ),
    ]  # fmt: skip


def _flow(recipe: Recipe, family: str) -> list[tuple[str, bool, str]]:
    dataset, noise, loss, network = recipe.dataset, recipe.noise, recipe.loss, recipe.network
    strange = [one for one in network.targets if one not in _FLUX_TARGETS]
    return [
        (
            "loss.weighting", loss.weighting != "none",
            f'loss.weighting = "{loss.weighting}" is made for predictions of noise or v; a FLUX '
            f"does not predict these: {_FLOW}. Take none; noise.density says which noise levels "
            "come up more often.",
        ),
        (
            "noise.offset", noise.offset > 0,
            "noise.offset mends noise schedules that never end in pure noise, and a flow does end "
            "there. Leave it at 0.",
        ),
        (
            "noise.multires_iterations", noise.multires_iterations > 0,
            "noise.multires_iterations mends noise schedules that never end in pure noise, and a "
            "flow does end there. Leave it at 0.",
        ),
        (
            "noise.zero_terminal_snr", noise.zero_terminal_snr,
            "noise.zero_terminal_snr rescales a noise schedule to end in pure noise, and a flow "
            "does end there. Leave it off.",
        ),
        (
            "noise.input_perturbation", noise.input_perturbation > 0,
            "noise.input_perturbation asks back less noise than was mixed in, and a FLUX is asked "
            f"for no noise: {_FLOW}. Leave it at 0.",
        ),
        (
            "dataset.clip_skip", dataset.clip_skip != 1,
            f"dataset.clip_skip = {dataset.clip_skip}: FLUX reads T5's last layer and CLIP's "
            "summary, and no other. Leave it at 1.",
        ),
        (
            "dataset.windows", dataset.windows != 1,
            f"dataset.windows = {dataset.windows}: FLUX reads long captions in one window "
            "(T5, 512 tokens, schnell 256). Leave it at 1.",
        ),
        (
            "optimizer.text_encoder_rate", recipe.optimizer.text_encoder_rate > 0,
            "optimizer.text_encoder_rate: FLUX's text encoders are read and not trained here, as "
            "its LoRAs are made. Leave it at 0.",
        ),
        (
            "network.kind", network.kind != "lora",
            f'network.kind = "{network.kind}": kohya\'s names for FLUX put several layers into one '
            "matrix, and only plain pairs can be put together exactly. Take lora.",
        ),
        (
            "network.targets", bool(strange),
            f"network.targets: FLUX has no {' or '.join(strange)}. It has "
            f"{', '.join(_FLUX_TARGETS)}.",
        ),
        (
            "training.guidance", family == "flux_schnell" and recipe.training.guidance != 1.0,
            "training.guidance is for FLUX.1 dev: schnell is told no guidance. Leave it at 1.",
        ),
        (
            "dataset.resolution", recipe.dataset.resolution % 16 != 0,
            f"dataset.resolution = {recipe.dataset.resolution}: FLUX takes multiples of 16 pixels.",
        ),
        (
            "sample.sampler", bool(recipe.sample.prompts) and recipe.sample.sampler != "Euler",
            f'sample.sampler = "{recipe.sample.sampler}" is not a sampler of flows. Take Euler.',
        ),
        (
            "sample.negative",
            bool(recipe.sample.prompts and recipe.sample.negative) and family == "flux",
            "sample.negative: guidance was distilled into FLUX.1 dev, which takes no negative "
            "prompt. Leave it empty.",
        ),
    ]  # fmt: skip
