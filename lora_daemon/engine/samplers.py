"""Samplers by the names users know, and the diffusers schedulers that they are."""

from __future__ import annotations

from typing import Any, get_args

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

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
    """A fresh scheduler for ``sampler`` on the noise schedule of a base."""
    kind, options = _SCHEDULERS[sampler]
    return kind.from_config(base_config, **options)
