"""Pictures during training: the recipe's prompts, always from the same seeds, by the LoRA as it is.

They have their own generators and only read the adapter, so a run with fifty of them ends with the
same bytes as a run with none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from lora_daemon.engine import embeddings, wording
from lora_daemon.engine.bases import Base
from lora_daemon.engine.captions import reading
from lora_daemon.engine.device import explained, free_cache
from lora_daemon.engine.generate import paint, save_png
from lora_daemon.engine.steering import Steering
from lora_daemon.pipe import Notice, SampleSaved
from shared import lora_tags
from shared.errors import Code, LoraError
from shared.filenames import typed
from shared.pictures import PictureSpec, parameters_text
from shared.recipe import Recipe
from shared.recipe_schema import Sample


def comes_due(step: int, per_epoch: int, every_steps: int, every_epochs: int) -> bool:
    """Whether what comes each so many steps or epochs (0: never) comes after ``step`` steps."""
    if every_steps and step and step % every_steps == 0:
        return True
    epoch, over = divmod(step, per_epoch)
    return bool(every_epochs and epoch and not over and epoch % every_epochs == 0)


def due(wanted: Sample, step: int, per_epoch: int) -> bool:
    """Whether samples are asked for after so many steps; after none, before the first."""
    if not step:
        return bool(wanted.prompts) and wanted.at_first
    every = wanted.every_steps, wanted.every_epochs
    return bool(wanted.prompts) and comes_due(step, per_epoch, *every)


class Samples:
    """The ``samples/`` folder of a run. In the context ``averaged`` the LoRA is what is kept.
    ``learnt``: names and files of textual inversions that the prompts name."""

    def __init__(
        self, recipe: Recipe, base: Base, run_dir: Path, resolution: int, base_name: str,
        steering: Steering, averaged: Callable[[], AbstractContextManager[None]],
        learnt: Sequence[tuple[str, str]] = (),
    ) -> None:  # fmt: skip
        wanted = recipe.sample
        self.recipe, self.base, self.steering = recipe, base, steering
        self.run_dir = run_dir
        self._averaged = averaged
        self._learnt = {name.lower(): Path(typed(path)) for name, path in learnt}
        prompts = [lora_tags.taken(prompt, wanted.steps) for prompt in wanted.prompts]
        if others := {use.lora for _, uses in prompts for use in uses}:
            self._notice(
                f"Samples show the LoRA in training alone: {', '.join(sorted(others))} of their "
                "prompts left out."
            )
        self.specs = [
            PictureSpec(
                base=base_name, prompt=prompt, negative=wanted.negative, sampler=wanted.sampler,
                steps=wanted.steps, cfg=wanted.cfg, seed=wanted.seed + number, width=resolution,
                height=resolution,
            )
            for number, (prompt, _) in enumerate(prompts)
        ]  # fmt: skip

    def make(self, step: int) -> None:
        """Paint every prompt. What goes wrong is told, and the training goes on."""
        if not self.specs:
            self._notice("The recipe has no sample.prompts, so there is nothing to sample.")
            return
        before = self.steering.enter("sampling", (0, len(self.specs)))
        with self._tried(step):
            for number in range(len(self.specs)):
                failed: LoraError | None = None
                try:
                    self._make(step, number)
                except Exception as error:
                    failed = explained(error)
                if failed is not None:
                    free_cache()  # only here: the error's frames held on to what they had
                    if failed.code is Code.CANCELLED:
                        break
                    self._notice(f"A sample of step {step} failed: {failed.message}")
                self.steering.enter("sampling", (number + 1, len(self.specs)))
        self.steering.enter(before)

    def catch_up(self, step: int, per_epoch: int) -> None:
        """Paint what was due at the step that a run begins or resumes from, unless painting it was
        tried: it may be what ended the process."""
        if not due(self.recipe.sample, step, per_epoch) or all(
            self._path(step, n).exists() for n in range(len(self.specs))
        ):
            return
        if self._mark(step).exists():
            self._notice(f"The samples of step {step} were interrupted; they are left out.")
            with contextlib.suppress(OSError):
                self._mark(step).unlink()
        else:
            self.steering.enter("training")  # where it goes on after them
            self.make(step)

    def _make(self, step: int, number: int) -> None:
        spec = self.specs[number]

        def progress(_: int) -> None:
            if self.steering.leaving:
                raise LoraError(Code.CANCELLED, "The run is being left.")

        said = {name: embeddings.load(path, self.base) for name, path in self._learnt.items()}
        with self._averaged(), wording.learnt(self.base, said):
            (picture,) = paint(self.base, [spec], progress, reading(self.recipe))
        text = parameters_text(
            spec, model=spec.base, model_hash=self.base.model_hash[:10], lora_hashes={}
        )
        path = self._path(step, number)
        save_png(path, picture, text)
        self.steering.tell(
            SampleSaved(
                run=self.steering.run, step=step, path=str(path.relative_to(self.run_dir)),
                prompt=spec.prompt, seed=spec.seed,
            )
        )  # fmt: skip

    def _path(self, step: int, number: int) -> Path:
        return self.run_dir / "samples" / f"step{step:06d}_{number:02d}.png"

    def _mark(self, step: int) -> Path:
        return self.run_dir / "samples" / f".step{step:06d}"

    @contextlib.contextmanager
    def _tried(self, step: int) -> Iterator[None]:
        """A mark on the disk while painting. It stays there if the process dies of it."""
        mark = self._mark(step)
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        yield
        with contextlib.suppress(OSError):
            mark.unlink()

    def _notice(self, message: str) -> None:
        self.steering.tell(Notice(run=self.steering.run, message=message))
