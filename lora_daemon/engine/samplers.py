"""Samplers by the names users know, and the diffusers schedulers that they are."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import numpy as np
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
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
