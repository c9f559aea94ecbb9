"""A recipe from a few answers: what it is to learn, from what, on what, its word, how thoroughly.

The numbers are those that users of the field expect (1 000 to 3 000 pictures seen, rank 8 to 32,
1e-4), scaled to the number of pictures; for the starter, those it was measured with.
"""

from __future__ import annotations

from typing import Any, Literal

from shared import recipe
from shared.recipe import Recipe
from shared.recipe_families import FLOWS

Teaches = Literal["subject", "style"]
Effort = Literal["quick", "usual", "thorough"]

FEW = 10  # pictures; of so few each is seen often, and all of it is learned by heart
KEPT = 8  # checkpoints to choose from
MOST_CROPPED = 0.03  # share of pictures that squares may lose; where it is more, buckets are better
USUAL_RATE, SMALL_RATE = 1e-4, 2e-3  # AdamW's; small: of the starter
STARTER = "starter"  # what the names of the built-in bases begin with
_SEEN = {"subject": 1500, "style": 2500}  # pictures, as often as they come up
_FEWEST_SEEN, _MOST_OFTEN = 800, 100  # each picture at most so often
_EFFORT = {"quick": 0.5, "usual": 1.0, "thorough": 2.0}


def suited(
    *,
    teaches: Teaches,
    dataset: str,
    pictures: int,
    base: str,
    family: str = "",
    trigger: str = "",
    effort: Effort = "usual",
    buckets: bool = False,
) -> Recipe:
    """The recipe. ``family``: of the base, or empty; ``buckets``: pictures keep their shapes, else
    each becomes a square. Raises LoraError(INVALID_RECIPE)."""
    small = base.startswith(STARTER)
    few = pictures <= FEW
    batch = 4 if small else 1 if few else 2
    seen = (4800 if small else _FEWEST_SEEN if few else _SEEN[teaches]) * _EFFORT[effort]
    epochs = max(1, round(min(seen / max(pictures, 1), _MOST_OFTEN * _EFFORT[effort])))
    rank = 32 if small or teaches == "style" else 8 if few else 16
    tree: dict[str, Any] = {
        "title": f"{teaches.title()} from {pictures} pictures, {effort}",
        "base": {"name": base, "family": family or "any"},
        "dataset": {"name": dataset, "enable_bucket": buckets},
        "network": {"rank": rank, "alpha": float(rank)},
        "optimizer": {"learning_rate": SMALL_RATE if small else USUAL_RATE},
        "schedule": {"kind": "cosine"},
        "loss": {"weighting": "min_snr"},
        "training": {"batch_size": batch, "epochs": epochs},
        "save": {"every_epochs": max(1, -(-epochs // KEPT))},
        "output": {"name": dataset, "trigger": trigger},
    }
    if family in FLOWS:
        tree["loss"]["weighting"] = "none"
        tree["noise"] = {"density": "logit_normal", "shift": 0.0}
    if teaches == "subject" and family in ("sd1", "sd2") and not small:
        tree["optimizer"]["text_encoder_rate"] = 5e-5  # the word is new to it
    if teaches == "style" and not trigger:
        tree["dataset"]["caption_dropout"] = 0.1  # shown always, whatever is asked for
    if trigger:
        guidance = {"flux": {"cfg": 3.5}, "flux_schnell": {"cfg": 1.0, "steps": 4}}.get(family, {})
        tree["sample"] = guidance | {
            "prompts": [trigger],
            "every_epochs": tree["save"]["every_epochs"],
        }
    made = recipe.convert(tree)
    steps = recipe.total_steps(made, pictures)
    tree["schedule"]["warmup_steps"] = min(100, steps // 10)
    return recipe.convert(tree)
