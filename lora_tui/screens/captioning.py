"""A captioner at work: which one is asked, the rest goes on in the background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lora_tui.core import words
from lora_tui.screens import behind
from lora_tui.screens.base import Place
from lora_tui.screens.dialogs import AskText, Choose
from shared import wire
from shared.captioners import CAPTIONERS, Captioner

GROUP = "captions"


def _from(captioner: Captioner) -> str:
    return "from the Hub" if captioner.hub else "built in"


_MODELS = (*CAPTIONERS, "")
_OPTIONS = (
    *((one.key, f"{name}, {one.good_for}", _from(one)) for name, one in CAPTIONERS.items()),
    ("o", "another: a folder, or a Hub id", ""),
)


def fill(place: Place, dataset: wire.Dataset | None) -> None:
    """Ask for a captioner, then let it fill what is empty of ``dataset`` or of what the filter
    shows of it: its captions wait to be reviewed. Where nothing is empty, it writes candidates
    beside the captions."""
    if dataset is None:
        place.notify("Import a folder first: g d, then i.")
        return
    if (job := under_way(place, dataset.id)) is not None:
        _steer(place, dataset, job)
        return
    beside = not dataset.empty

    def chosen(option: int | None) -> None:
        if option is None:
            return
        if _MODELS[option]:
            _ask(place, dataset, _MODELS[option], beside)
        else:
            place.app.push_screen(
                AskText("Which captioner?", placeholder="/path/to/captioner or owner/name"),
                lambda model: _begin(place, dataset, model, beside) if model else None,
            )

    title = f"Who fills {words.plural(dataset.empty, 'empty caption')}?"
    if beside:
        title = "Every picture has a caption. Who writes candidates beside them?"
    place.app.push_screen(Choose(title, _OPTIONS), chosen)


def under_way(place: Place, dataset: str) -> wire.Job | None:
    """The captioning of a dataset, whoever has begun it."""
    jobs = place.lora.known.jobs.values()
    return next(
        (j for j in jobs if j.dataset == dataset and j.state in ("running", "paused")), None
    )


def _steer(place: Place, dataset: wire.Dataset, job: wire.Job) -> None:
    """Let it pause, go on, or end."""
    resume = job.state == "paused"
    first = ("p", "go on", "") if resume else ("p", "pause after the pictures it looks at", "")

    def chosen(option: int | None) -> None:
        if option is not None:
            action: Literal["pause", "resume", "cancel"] = "resume" if resume else "pause"
            ask = wire.SteerCaptioning(dataset=dataset.id, action="cancel" if option else action)
            place.attempt(place.lora.ask(ask), group="steer")

    title = f"{dataset.name}: {job.done} of {words.plural(job.total, 'picture')} captioned"
    title += ", paused." if resume else "."
    options = (first, ("x", "end it; what is written stays", ""))
    place.app.push_screen(Choose(title, options), chosen)


def _ask(place: Place, dataset: wire.Dataset, model: str, beside: bool) -> None:
    """What this captioner wants to know, if it wants to know something; then begin."""
    named = CAPTIONERS[model]
    match named.asks:
        case "prompt":
            text = "Nothing: its own question."
            if named.tasks:
                text = f"{', '.join(named.tasks)}. {text}"
            else:
                text = f"{{trigger}}, {{tags}} and {{caption}} are the picture's. {text}"
            window = AskText(f"What is {model} to be asked?", text)
        case "threshold":
            window = AskText(
                f"From which probability on does {model} say a tag?",
                "And which tags never: 0.4, solo, 1girl. Nothing: 0.35, of characters 0.85.\n"
                "It knows drawings; of photographs it says much that is wrong.",
            )
        case _:
            _begin(place, dataset, model, beside)
            return

    def told(answer: str | None) -> None:
        if answer is None:
            return
        if named.asks == "prompt":
            _begin(place, dataset, model, beside, prompt=answer)
        else:
            threshold, never = tagged(answer)
            _begin(place, dataset, model, beside, threshold=threshold, blacklist=never)

    place.app.push_screen(window, told)


def tagged(answer: str) -> tuple[float | None, list[str]]:
    """Threshold and blacklist from what was typed: "0.4, solo, 1girl"."""
    parts = [part for part in map(str.strip, answer.split(",")) if part]
    try:
        threshold = float(parts[0])
    except (IndexError, ValueError):
        return None, parts
    return threshold, parts[1:]


def _begin(
    place: Place, dataset: wire.Dataset, model: str, beside: bool, *, prompt: str = "",
    threshold: float | None = None, blacklist: Sequence[str] = (),
) -> None:  # fmt: skip
    shown = place.lora.picture_filters.get(dataset.id, "")
    ask = wire.CaptionPictures(
        dataset=dataset.id, model=model, filter=shown, beside=beside, prompt=prompt,
        threshold=threshold, blacklist=list(blacklist),
    )  # fmt: skip
    behind.begin(place, GROUP, ask, summed, "Cancelled. The captions that were written stay.", 8)


def summed(done: wire.Captioned) -> str:
    """dragons: 60 captions written, to be reviewed; 2 pictures left out: …"""
    text = f"{done.dataset.name}: {words.plural(done.written, 'caption')} written, to be reviewed"
    if done.beside:
        text += f"; {words.plural(done.beside, 'candidate')} beside captions"
    if done.problems:
        name, reason = done.problems[0]
        text += f"; {words.plural(len(done.problems), 'picture')} left out ({name}: {reason})"
    return " ".join([f"{text}.", *done.warnings])
