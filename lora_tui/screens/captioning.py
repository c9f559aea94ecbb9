"""A captioner at work: which one is asked, the rest goes on in the background."""

from __future__ import annotations

from lora_tui.core import words
from lora_tui.screens import behind
from lora_tui.screens.base import Place
from lora_tui.screens.dialogs import AskText, Choose
from shared import wire

GROUP = "captions"
_MODELS = ("starter", "blip", "")
_OPTIONS = (
    ("s", "starter, for the starter's world", "built in"),
    ("b", "blip, for photos and drawings", "from the Hub"),
    ("o", "another BLIP: a folder, or a Hub id", ""),
)


def fill(place: Place, dataset: wire.Dataset | None) -> None:
    """Ask for a captioner, then let it fill what is empty of ``dataset`` or of what the filter
    shows of it: its captions wait to be reviewed. Where nothing is empty, it writes candidates
    beside the captions."""
    if dataset is None:
        place.notify("Import a folder first: g d, then i.")
        return
    beside = not dataset.empty

    def chosen(option: int | None) -> None:
        if option is None:
            return
        if _MODELS[option]:
            _begin(place, dataset, _MODELS[option], beside)
        else:
            place.app.push_screen(
                AskText("Which captioner?", placeholder="/path/to/blip or owner/name"),
                lambda model: _begin(place, dataset, model, beside) if model else None,
            )

    title = f"Who fills {words.plural(dataset.empty, 'empty caption')}?"
    if beside:
        title = "Every picture has a caption. Who writes candidates beside them?"
    place.app.push_screen(Choose(title, _OPTIONS), chosen)


def _begin(place: Place, dataset: wire.Dataset, model: str, beside: bool) -> None:
    shown = place.lora.picture_filters.get(dataset.id, "")
    ask = wire.CaptionPictures(dataset=dataset.id, model=model, filter=shown, beside=beside)
    behind.begin(place, GROUP, ask, summed, "Cancelled. The captions that were written stay.", 8)


def summed(done: wire.Captioned) -> str:
    """dragons: 60 captions written, to be reviewed; 2 pictures left out: …"""
    text = f"{done.dataset.name}: {words.plural(done.written, 'caption')} written, to be reviewed"
    if done.beside:
        text += f"; {words.plural(done.beside, 'candidate')} beside captions"
    if done.problems:
        name, reason = done.problems[0]
        text += f"; {words.plural(len(done.problems), 'picture')} left out ({name}: {reason})"
    return f"{text}."
