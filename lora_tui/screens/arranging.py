"""The queue's order, what goes on from a run, and runs side by side: keys of the Runs screen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from lora_tui.core import event_files, run_list, words
from lora_tui.screens import continuing
from lora_tui.screens.base import Dialog
from lora_tui.screens.compare_runs import CompareRuns
from lora_tui.screens.dialogs import AskText
from lora_tui.screens.steering import Steering
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.rows import Cell, Column, Rows
from shared import run_queue, wire
from shared.wire import Run


class Arranging(Steering):
    """Mixed into Runs."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: list[str] = []  # ids of runs, in the order they were chosen
        self._moving = asyncio.Lock()  # a second press counts from where the first has led

    @property
    def group_shown(self) -> list[Run]:
        """The runs of the sweep under the cursor, or of the one that the run there is one of."""
        raise NotImplementedError

    def choice_changed(self) -> None:
        """Other runs are chosen."""
        raise NotImplementedError

    # ── the queue ───────────────────────────────────────────────────────────────────────────────

    def _move(self, by: int) -> None:
        run = self._waiting()
        if run is None:
            return

        async def move() -> None:
            async with self._moving:
                pair = run_queue.moved_before(run, self.state.runs, by)
                if pair is not None:
                    await self.lora.ask(wire.ArrangeRun(run=pair[0], before=pair[1]))

        self.attempt(move(), group="move")

    def _waiting(self) -> Run | None:
        """The run under the cursor, if it has a place in the queue; else that is said."""
        run = self.run_or_say()
        if run is not None and not run_queue.has_place(run):
            self.notify(f"{run.id} is {run.state}: only runs that wait have a place in the queue.")
            return None
        return run

    def action_earlier(self) -> None:
        self._move(-1)

    def action_later(self) -> None:
        self._move(1)

    def action_first(self) -> None:
        if (run := self._waiting()) is not None:
            self.attempt(self.lora.ask(wire.ArrangeRun(run=run.id, move="first")))

    def action_last(self) -> None:
        if (run := self._waiting()) is not None:
            self.attempt(self.lora.ask(wire.ArrangeRun(run=run.id, move="last")))

    def action_after(self) -> None:
        run = self._waiting()
        if run is None:
            return

        def answered(after: list[str] | None) -> None:
            if after is not None:
                self.attempt(self.lora.ask(wire.ArrangeRun(run=run.id, after=after)), said)

        def said(run: Run) -> None:
            whom = ", ".join(run.after)
            self.notify(f"{run.id} waits for {whom or 'no other run'}.", timeout=3)

        others = [one for one in self.state.runs if one.id != run.id]
        if not others:
            self.notify("There is no other run to wait for.")
            return
        self.app.push_screen(After(run, others), answered)

    # ── what goes on from a run ─────────────────────────────────────────────────────────────────

    def action_fork(self) -> None:
        if (run := self.run_or_say()) is not None:
            continuing.fork(self, run)

    def action_extend(self) -> None:
        if (run := self.run_or_say()) is not None:
            continuing.extend(self, run)

    def action_export(self) -> None:
        run = self.run_or_say()
        if run is None:
            return

        def typed(folder: str | None) -> None:
            if folder:
                work = event_files.write(self.lora.ask, self.lora.fetch, run.id, folder)
                self.attempt(
                    work, lambda done: self.notify(f"{done.said()}.", timeout=8), group="events"
                )

        self.app.push_screen(
            AskText(
                f"TensorBoard event files of {run.id}: where to?",
                "A new or empty folder on this machine, one for each run; then tensorboard "
                "--logdir on the folder above it.",
                f"~/lora-logs/{run.id}",
            ),
            typed,
        )

    # ── side by side ────────────────────────────────────────────────────────────────────────────

    def action_choose(self) -> None:
        """Choose the run under the cursor, of a sweep's head all its runs, and go on."""
        run = self.run_shown
        ids = [run.id] if run is not None else [one.id for one in self.group_shown]
        if not ids:
            return
        if all(id_ in self.chosen for id_ in ids):
            self.chosen = [id_ for id_ in self.chosen if id_ not in ids]
        else:
            self.chosen += [id_ for id_ in ids if id_ not in self.chosen]
        self.choice_changed()
        self.query_one(Rows).action_down()

    def action_unchoose(self) -> None:
        self.chosen = []
        self.choice_changed()

    def action_compare(self) -> None:
        runs = self.to_compare()
        if len(runs) < 2:
            self.notify(
                "Choose two runs or more with space, or stand on a sweep or a fork, and press c."
            )
            return
        groups = {run.group for run in runs}
        title = f"{words.plural(len(runs), 'run')} side by side"
        if len(groups) == 1 and (group := groups.pop()):
            title = f"{group} · {run_list.axes_said(runs)}"
        self.app.push_screen(CompareRuns(self, runs, title))

    def to_compare(self) -> list[Run]:
        """The chosen runs; else those of the sweep under the cursor; else a fork and its parent."""
        known = {run.id: run for run in self.state.runs}
        if chosen := [known[id_] for id_ in self.chosen if id_ in known]:
            run = self.run_shown
            alone = len(chosen) == 1 and run is not None and run.id not in self.chosen
            return [*chosen, run] if alone and run is not None else chosen
        if group := self.group_shown:
            return group
        run = self.run_shown
        parent = known.get(run.parent) if run is not None else None
        return [parent, run] if run is not None and parent is not None else []


class After(Dialog[list[str] | None]):
    """Asks which runs one is to wait for. Answers their ids, None when left."""

    BINDINGS = bindings("after")

    def __init__(self, run: Run, others: Sequence[Run]) -> None:
        super().__init__()
        self._run = run
        self._others = [entry.run for entry in run_list.entries(others) if entry.run is not None]
        self._every = [run, *others]
        self._marked = set(run.after)

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = f"{self._run.id} begins once these have left their LoRA"
            yield Rows(Column("", 1), Column("", 5), Column(""), Column("", 13))
            yield Static("", id="said", markup=False)
            yield self.keys_line("after.pick", "after.keep", "after.leave")

    def on_mount(self) -> None:
        rows = self.query_one(Rows)
        rows.styles.height = min(len(self._others), 12)
        marked = [n for n, run in enumerate(self._others) if run.id in self._marked]
        rows.show(len(self._others), self._cells, cursor=marked[0] if marked else 0)
        rows.focus()
        self._tell()

    def _cells(self, place: int) -> Sequence[Cell]:
        run = self._others[place]
        mark = "■" if run.id in self._marked else " "
        standing = run_list.standing(run, self._every)
        return [(mark, "primary bold"), run.id, run.name or run.dataset, standing]

    def _tell(self) -> None:
        dead = [
            run.id for run in self._others
            if run.id in self._marked and run.state in wire.FINAL_STATES
            and not run_queue.left_its_lora(run)
        ]  # fmt: skip
        waits = ", ".join(run.id for run in self._others if run.id in self._marked)
        said = f"Waits for {waits}." if waits else "Waits for no run."
        if dead:
            said += f" {', '.join(dead)} ended without a LoRA: it would wait for ever."
        self.query_one("#said", Static).update(said)

    def action_pick(self) -> None:
        rows = self.query_one(Rows)
        self._marked ^= {self._others[rows.cursor].id}
        rows.update_row(rows.cursor)
        self._tell()

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self.action_keep()

    def action_keep(self) -> None:
        self.dismiss([run.id for run in self._others if run.id in self._marked])

    def action_leave(self) -> None:
        self.dismiss(None)
