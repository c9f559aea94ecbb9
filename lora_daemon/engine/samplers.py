"""Samplers by the names users know, and the diffusers schedulers that they are."""

from __future__ import annotations

import inspect
from typing import Any, get_args

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from shared.errors import Code, LoraError
from shared.recipe import Sampler

_SCHEDULERS: dict[Sampler, tuple[Any, dict[str, Any]]] = {
    "Euler": (EulerDiscreteScheduler, {}),
    "Euler a": (EulerAncestralDiscreteScheduler, {}),
    "Heun": (HeunDiscreteScheduler, {}),
    "DPM++ 2M": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "DPM++ 2M Karras": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "DPM++ 2M SDE": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    # Its default clips the predicted latents to -1 … 1, which only suits pixels.
    "DDIM": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "UniPC": (UniPCMultistepScheduler, {}),
}
assert set(_SCHEDULERS) == set(get_args(Sampler))


def scheduler(sampler: Sampler, base_config: dict[str, Any]) -> Any:
    """A fresh scheduler for ``sampler`` on the noise schedule of a base.

    Raises LoraError(BAD_REQUEST) where the schedule ends in pure noise, which not all can begin at.
    """
    kind, options = _SCHEDULERS[sampler]
    if base_config.get("rescale_betas_zero_snr"):
        if "rescale_betas_zero_snr" not in inspect.signature(kind.__init__).parameters:
            raise LoraError(
                Code.BAD_REQUEST,
                f"{sampler} cannot paint with a zero-terminal-SNR base. Take Euler, Euler a, "
                "DPM++ 2M, DDIM or UniPC.",
            )
        # https://arxiv.org/abs/2305.08891: the last step, the noisiest, must be among those taken.
        options = {**options, "timestep_spacing": "trailing"}
    return kind.from_config(base_config, **options)
