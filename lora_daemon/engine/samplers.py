"""Samplers by the names users know, and the diffusers schedulers that they are.

A name is a sampler's, followed by that of its noise schedule where it is not the base's own.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, get_args

import numpy as np
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from lora_daemon.engine.multistep import LMSScheduler
from shared.errors import Code, LoraError
from shared.recipe import Sampler

_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Euler": (EulerDiscreteScheduler, {}),
    "Euler a": (EulerAncestralDiscreteScheduler, {}),
    "Heun": (HeunDiscreteScheduler, {}),
    "LMS": (LMSScheduler, {}),
    "DPM2": (KDPM2DiscreteScheduler, {}),
    "DPM2 a": (KDPM2AncestralDiscreteScheduler, {}),
    "DPM++ 2M": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "DPM++ 2M SDE": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ SDE": (DPMSolverSinglestepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    # Its default clips the predicted latents to -1 … 1, which only suits pixels.
    "DDIM": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "UniPC": (UniPCMultistepScheduler, {}),
    "LCM": (LCMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
}
_SCHEDULES: dict[str, dict[str, Any]] = {
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Beta": {},  # its timesteps are given one by one
}
_BETA = 0.6  # both parameters of the distribution (https://arxiv.org/abs/2407.12173)


class Flow(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Euler along a flow, with the names that the other schedulers have for the same things."""

    init_noise_sigma = 1.0
    amount = 0.0  # log of the shift, where it goes by the picture's size

    def set_timesteps(self, steps: int, device: Any = None, **_: Any) -> None:
        """From pure noise in equal steps of σ, as FLUX's own sampler has them, and then shifted."""
        sigmas = np.linspace(1.0, 1 / steps, steps).tolist()
        super().set_timesteps(sigmas=sigmas, mu=self.amount, device=device)

    def scale_model_input(self, sample: Any, _: Any) -> Any:
        return sample

    def add_noise(self, begun: Any, noise: Any, timesteps: Any) -> Any:
        """Latents of pictures as they are at these timesteps, thousandths of σ: (n,)."""
        level = (timesteps / self.config.num_train_timesteps).to(begun)[:, None, None, None]
        return (1 - level) * begun + level * noise


def scheduler(sampler: Sampler, base_config: dict[str, Any], shift: float = 0.0) -> Any:
    """A fresh scheduler for ``sampler`` on the noise schedule of a base.

    ``shift``: of a flow, for the picture's size; 0 on other bases. Raises LoraError(BAD_REQUEST):
    a sampler that a flow does not have, or one that cannot begin at pure noise on a schedule that
    ends there.
    """
    if shift:
        if sampler != "Euler":
            raise LoraError(
                Code.BAD_REQUEST,
                f"{sampler} is not a sampler of flow-matching bases such as FLUX. Take Euler.",
            )
        flow = Flow.from_config(base_config)
        flow.amount = float(np.log(shift))
        return flow
    name, schedule = _apart(sampler)
    kind, options = _SCHEDULERS[name]
    options = {**options, **_SCHEDULES.get(schedule, {})}
    if base_config.get("rescale_betas_zero_snr"):
        if not _takes_zero_snr(sampler):
            able = ", ".join(one for one in get_args(Sampler) if _takes_zero_snr(one))
            raise LoraError(
                Code.BAD_REQUEST,
                f"{sampler} cannot paint with a zero-terminal-SNR base. These can: {able}.",
            )
        # https://arxiv.org/abs/2305.08891: the last step, the noisiest, must be among those taken.
        options = {**options, "timestep_spacing": "trailing"}
    return kind.from_config(base_config, **options)


def timed(
    sampler: Sampler, base_config: dict[str, Any], steps: int, device: Any, shift: float = 0.0
) -> Any:
    """A scheduler with its timesteps set. Raises as ``scheduler``."""
    made = scheduler(sampler, base_config, shift)
    if _apart(sampler)[1] == "Beta":
        made.set_timesteps(timesteps=_beta(steps, len(made.alphas_cumprod)), device=device)
    elif sampler == "LCM":
        most = max(steps, int(made.config.original_inference_steps))
        made.set_timesteps(steps, device=device, original_inference_steps=most)
    else:
        made.set_timesteps(steps, device=device)
    return made


def _apart(sampler: str) -> tuple[str, str]:
    """The sampler's own name, and its schedule's."""
    for schedule in _SCHEDULES:
        if sampler.endswith(f" {schedule}"):
            return sampler.removesuffix(f" {schedule}"), schedule
    return sampler, ""


def _takes_zero_snr(sampler: str) -> bool:
    name, schedule = _apart(sampler)
    known = inspect.signature(_SCHEDULERS[name][0].__init__).parameters
    return "rescale_betas_zero_snr" in known and schedule in ("", "SGM Uniform")


def _beta(steps: int, timesteps: int) -> list[int]:
    """Timesteps at the quantiles of a beta distribution, the noisiest first."""
    # x = sin² θ takes the poles out of the density x^(β-1) (1-x)^(β-1).
    angles = np.linspace(0, math.pi / 2, 20_001)
    density = (np.sin(angles) * np.cos(angles)) ** (2 * _BETA - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    wanted = 1 - np.arange(steps) / steps
    places = np.sin(np.interp(wanted, mass / mass[-1], angles)) ** 2
    chosen = [round(float(place) * (timesteps - 1)) for place in places]
    return list(dict.fromkeys(chosen))  # with very many steps some are the same


assert {_apart(sampler)[0] for sampler in get_args(Sampler)} == set(_SCHEDULERS)
