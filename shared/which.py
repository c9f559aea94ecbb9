"""Which checkpoint of a run to take: what was measured of each, and what follows from it."""

from __future__ import annotations

import msgspec


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over pictures, its 95 % interval and its standard error, by bootstrap."""

    mean: float
    low: float
    high: float
    error: float


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint, or an average of some. What is None could not be measured, or not yet."""

    name: str  # "step 120", or "average of 80, 120, 160"
    step: int  # of an average, the last of its steps
    files: list[str]  # absolute paths on the daemon's machine; of an average, those averaged
    measured: bool
    held: Spread | None = None  # change of the loss on pictures kept back, of the bare base's
    train: Spread | None = None  # the same on pictures that were trained on
    behind: Spread | None = None  # the loss kept back, less that of the best
    tied: bool = False  # within one standard error of the best
    drift: float | None = None  # ‖Δε‖ / ‖ε‖ on unrelated prompts
    leak: float | None = None  # effect without the trigger word, relative to with it
    nearness: float | None = None  # to training pictures, in their own standard deviations
    wins: float = 0.0  # in the blind choice; half a win where neither was better
    met: int = 0  # pairs it was in


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """What is known, and what to take."""

    run: str
    base: str
    candidates: list[Candidate]  # by step; averages last
    recommended: str  # a candidate's name; empty: too little is measured
    chosen: str  # what the blind choice says, once it counts; it goes before all measures
    reason: str  # one sentence
    notes: list[str]  # what else should be known
    held_out: int  # pictures
    trained: int  # pictures of those trained on that are measured
    pairs: int  # chosen so far
    wanted: int  # pairs until the choice counts
    busy: bool  # being measured just now
    seconds: float | None = None  # that measuring the rest takes, about; None: nothing tells

    @property
    def best_held(self) -> float | None:
        """The lowest change of the loss on pictures kept back, of all candidates measured."""
        return min((one.held.mean for one in self.candidates if one.held), default=None)

    @property
    def take(self) -> Candidate | None:
        """What to take: the person's choice, else what is recommended."""
        wanted = self.chosen or self.recommended
        return next((one for one in self.candidates if one.name == wanted), None)


def number(value: float | None, form: str) -> str:
    """A number for a table; a dash for none."""
    return "–" if value is None else format(value, form)
