"""The linear multistep sampler (LMS), as users of k-diffusion know it: Euler's way, with up to four
slopes remembered. diffusers' own needs SciPy for the integrals of cubic polynomials."""

from __future__ import annotations

from typing import Any

import numpy as np
from diffusers import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from numpy.polynomial import Polynomial
from torch import Tensor

ORDER = 4


class LMSScheduler(EulerDiscreteScheduler):  # type: ignore[misc]
    """Adams-Bashforth with uneven steps in σ."""

    def set_timesteps(self, *arguments: Any, **options: Any) -> None:
        super().set_timesteps(*arguments, **options)
        self._slopes: list[Tensor] = []

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True
    ) -> EulerDiscreteSchedulerOutput:
        """One step. ``model_output``: what the UNet predicts; ``sample``: the noisy latents."""
        index = self.step_index
        known = self.sigmas[max(0, index - ORDER + 1) : index + 2].double().cpu().numpy()
        # A step of Euler's moves by the slope times how far σ moves.
        moved = super().step(model_output, timestep, sample).prev_sample
        slope = (moved - sample) / (known[-1] - known[-2])
        self._slopes = [*self._slopes, slope][-ORDER:]
        parts = weights(known[:-1][-len(self._slopes) :], known[-1])
        total = sum(part * one for part, one in zip(parts, self._slopes, strict=True))
        return EulerDiscreteSchedulerOutput(prev_sample=sample + total)


def weights(sigmas: np.ndarray[Any, Any], then: float) -> list[float]:
    """What each slope, the oldest first, counts in the step from the last of ``sigmas`` to
    ``then``: the integral of its Lagrange polynomial."""
    found = []
    for number, own in enumerate(sigmas):
        others = np.delete(sigmas, number)
        basis = Polynomial.fromroots(others) if len(others) else Polynomial([1.0])
        integral = (basis / float(np.prod(own - others))).integ()
        found.append(float(integral(then) - integral(sigmas[-1])))
    return found
