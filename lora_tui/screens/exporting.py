"""A dataset written out for other tools: how and where to is asked, the rest goes on behind."""

from __future__ import annotations

from lora_tui.core import export_words
from lora_tui.screens import behind
from lora_tui.screens.base import Place
from lora_tui.screens.dialogs import AskText, Choose
from shared import wire

GROUP = "export"
_FORMATS: tuple[wire.ExportFormat, ...] = (
    "folder", "imagefolder", "csv", "kohya", "zip", "tar", "parquet",
)  # fmt: skip
_OPTIONS = (
    ("f", "folder", "a .txt beside each picture"),
    ("i", "ImageFolder", "metadata.jsonl, Hugging Face"),
    ("c", "ImageFolder, csv", "metadata.csv"),
    ("k", "kohya metadata", "meta_cap.json"),
    ("z", "zip", "one file, with .txt files"),
    ("t", "tar", "one file, WebDataset"),
    ("p", "parquet", "one file, Hugging Face"),
)


def export(place: Place, dataset: wire.Dataset | None, *, framed: bool = False) -> None:
    """Ask how and where to, then write ``dataset``, or what the filter shows of it. ``framed``:
    pictures as they are turned and cropped."""
    if dataset is None:
        place.notify("Import a folder first: press i.")
        return

    def chosen(option: int | None) -> None:
        if option is None:
            return
        if option == len(_FORMATS):
            export(place, dataset, framed=not framed)
            return
        form = _FORMATS[option]
        suffix = f".{form}" if form in ("zip", "tar", "parquet") else ""
        place.app.push_screen(
            AskText(
                "Where to?",
                "A new folder or file on the daemon's machine. Places, cameras and names that "
                "pictures carry inside stay behind.",
                f"~/{dataset.name}-export{suffix}",
            ),
            lambda path: _begin(place, dataset, path, form, framed) if path else None,
        )

    how = ("written as seen", "JPEGs made anew") if framed else ("left out", "files as they are")
    options = [*_OPTIONS, ("x", f"turns and crops: {how[0]}", how[1])]
    place.app.push_screen(
        Choose(f"Export {dataset.name} as", options, chosen=len(_FORMATS) if framed else 0), chosen
    )


def _begin(
    place: Place, dataset: wire.Dataset, path: str, form: wire.ExportFormat, framed: bool
) -> None:
    shown = place.lora.picture_filters.get(dataset.id, "")
    ask = wire.ExportDataset(
        dataset=dataset.id, path=path, format=form, filter=shown, apply_framing=framed
    )
    behind.begin(
        place, GROUP, ask, lambda done: export_words.summed(done, framed, "x when you export"),
        "Cancelled. Nothing of the export is left behind.", 12,
    )  # fmt: skip
