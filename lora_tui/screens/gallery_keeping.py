"""The gallery's pictures in and out: imported by reference, exported to this machine, copied."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.core.exported import put
from lora_tui.core.shown_lines import imported
from lora_tui.screens import behind
from lora_tui.screens.base import Place
from lora_tui.screens.dialogs import AskText, Page
from shared import wire
from shared.gallery import Shown
from shared.made_with import webui

GROUP = "gallery-import"


def bring_in(place: Place) -> None:
    """Ask which folder of another tool's pictures is to be shown, and have it read."""

    def typed(path: str | None) -> None:
        if path:
            ask = wire.ImportPictures(paths=[path])
            behind.begin(place, GROUP, ask, imported, "Cancelled. What was read stays.", 12)

    place.app.push_screen(
        AskText(
            "Import pictures",
            "A PNG or JPEG, or a folder with all below it, on the daemon's machine. They stay "
            "where they are; what WebUI, ComfyUI, InvokeAI and NovelAI wrote in them is read.",
        ),
        typed,
    )


def export(place: Place, pictures: Sequence[Shown], *, bare: bool) -> None:
    """Ask for a folder of this machine, and write the pictures there."""
    if not pictures:
        return

    def typed(folder: str | None) -> None:
        if folder:
            place.attempt(
                _write(place, pictures, folder, bare=bare),
                lambda paths: place.notify(f"Written: {clean(', '.join(paths))}", markup=False),
                group="export",
            )

    kept = "without what is written in it" if bare else "with what it was made with"
    what = f"{words.plural(len(pictures), 'picture')}, {kept}; a folder of this machine."
    place.app.push_screen(AskText("Export to", what, "~/pictures"), typed)


async def _write(place: Place, pictures: Sequence[Shown], folder: str, *, bare: bool) -> list[str]:
    """Raises LoraError: STORAGE, INVALID_FILE."""
    written = []
    for one in pictures:
        request = wire.GetGalleryPicture(picture=one.id, file=True, bare=bare)
        found, blobs = await place.lora.fetch(request)
        written.append(await asyncio.to_thread(put, folder, found, blobs[0]))
    return written


def copy(place: Place, one: Shown) -> None:
    """The parameters as the WebUI reads them, to the clipboard and to look at."""
    text = webui(one.made)
    place.app.copy_to_clipboard(text)
    place.app.push_screen(
        Page("As WebUI parameters", f"Copied, if your terminal lets it:\n\n{text}")
    )
