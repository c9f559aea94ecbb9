"""The gallery's pictures in and out: imported by reference, exported to this machine, copied."""

from __future__ import annotations

import asyncio

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


def export(place: Place, one: Shown, *, bare: bool) -> None:
    """Ask for a folder of this machine, and write the picture there."""

    def typed(folder: str | None) -> None:
        if folder:
            place.attempt(
                _write(place, one, folder, bare=bare),
                lambda path: place.notify(f"Written: {clean(path)}", markup=False),
                group="export",
            )

    kept = "without what is written in it" if bare else "with what it was made with"
    what = f"1 picture, {kept}; a folder of this machine."
    place.app.push_screen(AskText("Export to", what, "~/pictures"), typed)


async def _write(place: Place, one: Shown, folder: str, *, bare: bool) -> str:
    """Raises LoraError: STORAGE, INVALID_FILE."""
    request = wire.GetGalleryPicture(picture=one.id, file=True, bare=bare)
    found, blobs = await place.lora.fetch(request)
    return await asyncio.to_thread(put, folder, found, blobs[0])


def copy(place: Place, one: Shown) -> None:
    """The parameters as the WebUI reads them, to the clipboard and to look at."""
    text = webui(one.made)
    place.app.copy_to_clipboard(text)
    place.app.push_screen(
        Page("As WebUI parameters", f"Copied, if your terminal lets it:\n\n{text}")
    )
