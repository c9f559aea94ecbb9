"""One file of a mix: which method, which name, and the daemon makes it behind the screens."""

from __future__ import annotations

from lora_tui.core.cells import clean
from lora_tui.screens import behind
from lora_tui.screens.base import Place
from lora_tui.screens.dialogs import AskText, Choose
from shared import mixes, wire
from shared.lora_orders import Method
from shared.mixes import MixSpec
from shared.pictures import stem

GROUP = "merge"
WAYS: tuple[tuple[Method, str, str], ...] = (
    ("exact", "exact", "the sum, rank by rank"),
    ("ziplora", "ZipLoRA", "learnt on the base, so that each is kept"),
    ("orthogonal", "orthogonal", "the first, out of the others' way"),
    ("ties", "TIES", "the largest changes, by the sign of most"),
    ("dare", "DARE", "a random half of the changes"),
)


def merge(place: Place, spec: MixSpec) -> None:
    """Ask how and under which name, and have it made; while one is made, whether to give up."""
    kept = "What was learnt for it is gone on with next time."
    if behind.offer_to_give_up(place, GROUP, "Give up the merge?", kept):
        return
    uses = [mixes.use(lora) for lora in mixes.heard(spec)]
    if len(uses) < 2:
        place.notify("It takes two LoRAs that count to be merged.")
        return

    def chosen(at: int | None) -> None:
        if at is None:
            return

        def named(name: str | None) -> None:
            if name:
                ask = wire.MergeLoras(loras=uses, name=name, method=WAYS[at][0], base=spec.base)
                place.notify(f"{WAYS[at][1]}: {clean(name)} is being made.")
                behind.begin(place, GROUP, ask, summed, "The merge is given up.", 20)

        proposed = "-".join(stem(use.lora) for use in uses)
        place.app.push_screen(AskText("Name of the file", value=proposed), named)

    options = [("", f"{title}: {what}", "") for _, title, what in WAYS]
    place.app.push_screen(Choose("Make one file of the mix", options), chosen)


def summed(made: wire.LoraMerged) -> str:
    """What became of it, and where it is."""
    said = " ".join(made.notes)
    return clean(f"{made.lora.name} is in the Library, and a adds it to the mix. {said}".strip())
