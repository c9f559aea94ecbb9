"""What a dataset is good for: pictures, steps, sizes, shapes, framing, and why each."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shared.health import Advice

RESOLUTIONS = (512, 768, 1024)  # of SD 1.x, SD 2.x, SDXL
LEAST, SUBJECT, STYLE = 5, (15, 40), (30, 100)  # pictures
STEPS = (1000, 3000)  # of one picture each
TIMES = 10  # each picture of a large set is seen; the lesson's number


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the advice goes by: pictures that can be used and are not rejected."""

    pictures: int
    again: int  # of these, duplicates of better ones
    resolution: int
    reach: Mapping[int, int]  # resolution → pictures whose shorter side has it
    upright: int  # at least a fifth higher than wide
    square: int
    wide: int
    captions: int  # that were read for what they say of framing
    framing: Mapping[str, int]  # how many say it


def advice(known: Known) -> list[Advice]:
    """In the order of reading."""
    if not known.pictures:
        return [Advice(about="pictures", text="No picture can be used.", why="All are rejected or "
                       "cannot be read.")]  # fmt: skip
    return [_pictures(known), _steps(known), _sizes(known), _shapes(known), _framing(known)]


def _pictures(known: Known) -> Advice:
    different = known.pictures - known.again
    told = f"{different} different picture{'' if different == 1 else 's'}"
    if known.again:
        told += f" ({known.again} more are duplicates)"
    if different < LEAST:
        text = f"{told}: too few. Find at least {LEAST}, better {SUBJECT[0]}."
        why = (
            "From fewer the pictures themselves are learned by heart, not what they have in common."
        )
    elif different < SUBJECT[0]:
        text = f"{told}: enough to try one subject; {SUBJECT[0]} to {SUBJECT[1]} are better."
        why = "Each is seen very often: background and pose come along. Stop early, low rank."
    elif different < STYLE[0]:
        text = f"{told}: good for one subject; for a style find {STYLE[0]} and more."
        why = "A subject is the same in all; a style has to show on many different things."
    elif different <= STYLE[1]:
        text = f"{told}: good for a style, and more than enough for one subject."
        why = (
            "A style shows on many different things. For one subject, the best "
            f"{SUBJECT[1]} say as much in fewer steps."
        )
    else:
        text = f"{told}: good for a style or for several subjects, each with a word of its own."
        why = "So many teach what they have in common; what only a few show needs its own tag."
    return Advice(about="pictures", text=text, why=why)


def _steps(known: Known) -> Advice:
    low, high = STEPS
    high = max(high, TIMES * known.pictures)
    often = [max(1, round(steps / known.pictures)) for steps in (low, high)]
    times = f"{often[0]} to {often[1]} times" if often[0] < often[1] else f"{often[1]} times"
    text = f"{low:,} to {high:,} steps of one picture: each is seen {times}.".replace(",", " ")
    if known.pictures * TIMES > STEPS[1]:
        why = f"A large set needs each picture some {TIMES} times; divide by the batch size."
    else:
        why = (
            "Few pictures or many, a subject takes about as long; divide by the batch size. Keep a "
            "checkpoint each epoch: the best one is often not the last."
        )
    return Advice(about="steps", text=text, why=why)


def _sizes(known: Known) -> Advice:
    sizes = sorted({*RESOLUTIONS, known.resolution})
    fitting = [size for size in sizes if known.reach[size] >= 0.95 * known.pictures]
    counted = ", ".join(f"{known.reach[size]} reach {size}" for size in sizes)
    best = f"train at {fitting[-1]}" if fitting else f"train below {sizes[0]}, or find larger ones"
    why = (
        "A picture whose shorter side is smaller is enlarged, and its softness is learned. SD 1.x "
        "is at home at 512, SDXL at 1024."
    )
    return Advice(about="sizes", text=f"{counted}: {best}.", why=why)


def _shapes(known: Known) -> Advice:
    shapes = {"upright": known.upright, "square": known.square, "wide": known.wide}
    counted = ", ".join(f"{number} {name}" for name, number in shapes.items() if number)
    if known.square >= 0.8 * known.pictures:
        return Advice(
            about="shapes", text=f"{counted}: nothing is lost to cropping.",
            why="Each is scaled by its shorter side, and its middle square is what is seen.",
        )  # fmt: skip
    return Advice(
        about="shapes",
        text=f"{counted}: look whether what matters is in the middle square.",
        why="Each is scaled by its shorter side and cropped to its centre; the rest is never seen.",
    )


def _framing(known: Known) -> Advice:
    told = sum(known.framing.values())
    if told < 0.5 * known.captions or not known.captions:
        return Advice(
            about="framing",
            text=f"Not known: {min(told, known.captions)} of {known.captions} captions say it.",
            why="Nothing here looks at what a picture shows; it is read from words such as "
            "close-up, upper body, full body. A subject wants all of them.",
        )
    counted = ", ".join(
        f"{number} {name}" for name, number in sorted(known.framing.items(), key=lambda p: -p[1])
    )
    most, number = max(known.framing.items(), key=lambda pair: pair[1])
    lacking = [name for name in ("close-up", "upper body", "full body") if not known.framing[name]]
    if number > 0.7 * told:
        text = f"{counted}: nearly all are {most}; add other framings."
    elif lacking:
        text = f"{counted}: none is {' or '.join(lacking)}."
    else:
        text = f"{counted}: well mixed."
    why = (
        "As the captions say. What was only seen from near is drawn badly from afar, and the other "
        "way round."
    )
    return Advice(about="framing", text=text, why=why)
