"""What steers one run, and what is to be read of it: keys of the Runs screen."""

from __future__ import annotations

from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.screens.base import Place
from lora_tui.screens.dialogs import Confirm, Page
from lora_tui.screens.which import WhichCheckpoint
from shared import wire
from shared.wire import FINAL_STATES, Run


class Steering(Place):
    """Mixed into Runs."""

    @property
    def run_shown(self) -> Run | None:
        """The run under the cursor."""
        raise NotImplementedError

    def run_or_say(self) -> Run | None:
        """The run under the cursor; that there is none is said."""
        run = self.run_shown
        if run is None:
            self.notify("There is no run under the cursor.")
        return run

    def _steer(self, action: str, said: str) -> None:
        run = self.run_or_say()
        if run is None:
            return
        request = wire.SteerRun(run=run.id, action=action)  # type: ignore[arg-type]
        self.attempt(self.lora.ask(request), lambda _: self.notify(f"{run.id} {said}.", timeout=3))

    def action_pause(self) -> None:
        run = self.run_shown
        if run is not None and run.state in ("paused", "interrupted", "failed"):
            self._steer("resume", "goes on")
        else:
            self._steer("pause", "pauses at the next step")

    def action_sample(self) -> None:
        self._steer("sample", "makes its samples")

    def action_keep(self) -> None:
        self._steer("save", "keeps a checkpoint")

    def action_stop(self) -> None:
        run = self.run_or_say()
        if run is None:
            return
        if run.state in FINAL_STATES:
            self.notify(f"{run.id} has already {run.state}.")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._steer("stop", "stops and saves its LoRA")

        self.app.push_screen(
            Confirm(
                f"Stop {run.id}?",
                f"It ends for good at step {words.count(run.step)} of {words.count(run.steps)} "
                "and saves the LoRA as it is.\n\nTo go on later, pause it instead.",
            ),
            answered,
        )

    def action_delete(self) -> None:
        run = self.run_or_say()
        if run is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.attempt(
                    self.lora.ask(wire.RemoveRun(run=run.id)),
                    lambda _: self.notify(f"{run.id} is deleted."),
                )

        lora = f" with its LoRA {run.lora}" if run.lora else ""
        self.app.push_screen(
            Confirm(
                f"Delete {run.id}?",
                f"The run{lora}, its checkpoints and samples ({words.size(run.size)}) are deleted "
                "from the disk. This cannot be undone.",
            ),
            answered,
        )

    def action_details(self) -> None:
        run = self.run_or_say()
        if run is None:
            return

        def came(detail: wire.RunDetail) -> None:
            self.app.push_screen(Page(f"{run.id} {run.name}", details(detail)))

        self.attempt(self.lora.ask(wire.GetRun(run=run.id)), came)

    def action_which(self) -> None:
        run = self.run_or_say()
        if run is not None:
            self.app.push_screen(WhichCheckpoint(self, run))

    def action_log(self) -> None:
        run = self.run_or_say()
        if run is None:
            return

        def came(log: wire.LogLines) -> None:
            text = "\n".join(map(clean, log.lines))
            self.app.push_screen(Page(f"log of {run.id}", text, at_end=True))

        self.attempt(self.lora.ask(wire.GetLog(run=run.id, lines=2000)), came)


def details(detail: wire.RunDetail) -> str:
    """All there is to know of a run, as text."""
    run = detail.run
    parts = [
        f"{run.state} · by {run.by} · {words.plural(run.pictures, 'picture')} · "
        f"{words.size(run.size)} in {detail.directory}"
    ]
    if run.message:
        parts.append(run.message)
    if run.group:
        parts.append(f"one of the sweep {clean(run.group)}")
    if run.settings:
        parts.append(f"set: {clean(', '.join(run.settings))}")
    if run.parent:
        parts.append(f"forked from {run.parent}")
    if run.after and run.started is None:
        parts.append(f"waits for {', '.join(run.after)}")
    parts += detail.warnings
    if detail.checkpoints:
        parts.append("\nCheckpoints")
        parts += [
            f"  step {words.count(c.step)}, epoch {c.epoch}  {words.size(c.size)}"
            f"{'  final' if c.final else ''}  {clean(c.path)}"
            for c in detail.checkpoints
        ]
    if detail.skipped:
        parts.append("\nPictures that were skipped")
        parts += [f"  {clean(name)}: {clean(reason)}" for name, reason in detail.skipped]
    parts.append("\nRecipe\n" + detail.recipe)
    return "\n".join(parts)
