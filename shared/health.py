"""What can be wrong with a dataset: each kind in words, and how much of it was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from shared.edits import AnyEdit

RESOLUTION = 512  # pixels of the shorter side, unless another is asked
MOST_TOKENS = 75
MOST_EXAMPLES = 20  # of a finding


@dataclass(frozen=True)
class Kind:
    """A kind of finding. ``of``: what is counted."""

    name: str
    title: str
    meaning: str  # why it matters, and what is to be done
    filter: str  # that finds it; empty: no picture has it
    of: Literal["picture", "caption file"] = "picture"
    grave: bool = True  # a mistake more often than not: part of issue:any


# In the order in which they are worth looking at.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "unreadable", "cannot be read",
            "These are no pictures, damaged, gone or too large. Training leaves them out. Mend or "
            "delete the files, then read the folder again.",
            "issue:unreadable",
        ),
        Kind(
            "truncated", "cut short",
            "The end of the file is missing, as after a download that broke off. Training leaves "
            "them out. Fetch them anew, then read the folder again.",
            "issue:truncated",
        ),
        Kind(
            "copies", "exact duplicates",
            "The same file several times is learned several times as hard. Leave all but one out.",
            "dup:exact",
        ),
        Kind(
            "near", "near duplicates",
            "The same picture in another size, compression or with a small change. It weighs as "
            "often as it is there, and what is the same in all is learned by heart. Keep the best "
            "of each group: the reviewed one, else the largest.",
            "dup:near",
        ),
        Kind(
            "no-caption", "no caption",
            "Everything in such a picture is tied to the empty prompt. Let a captioner write "
            "(caption --model …; c in Datasets and Review), or write it yourself.",
            "issue:no-caption",
        ),
        Kind(
            "no-trigger", "trigger word missing",
            "What should answer to the trigger word is learned without it from these.",
            "issue:no-trigger",
        ),
        Kind(
            "long", f"over {MOST_TOKENS} tokens",
            f"The text encoder reads {MOST_TOKENS} tokens at once; what stands behind is cut off "
            "where the trainer does not join several windows. Shorten, the important part first.",
            "issue:long",
        ),
        Kind(
            "stem", "several pictures, one name",
            "Pictures called alike but for their suffix (or for capitals, on Windows and macOS) "
            "share one caption file. Rename one of them, then read the folder again.",
            "issue:stem",
        ),
        Kind(
            "orphans", "caption files without picture",
            "Their picture has another name, another folder, or is gone: nobody reads them. Rename "
            "the one or the other, then read the folder again.",
            "", of="caption file",
        ),
        Kind(
            "small", "too small",
            "The shorter side is below the training resolution, so they are enlarged, and the LoRA "
            "learns that softness. Find larger ones, leave them out, or train smaller.",
            "issue:small",
        ),
        Kind(
            "blur", "blurred",
            "Hardly anything in them is sharp, and blur is learned like any style. Look whether it "
            "is meant; leave out the rest.",
            "issue:blur",
        ),
        Kind(
            "dark", "too dark",
            "Not even their brightest parts are bright. Night scenes may be meant so; leave out or "
            "mend the rest.",
            "issue:dark",
        ),
        Kind(
            "bright", "too bright",
            "Not even their darkest parts are dark: washed out, or overexposed. Pale drawings may "
            "be meant so; mend or leave out the rest.",
            "issue:bright",
        ),
        Kind(
            "profile", "colours not sRGB",
            "Their colour profile is another one (Adobe RGB, Display P3, CMYK …). Training takes "
            "the numbers as sRGB: colours come out dull or shifted. Convert them to sRGB.",
            "issue:profile",
        ),
        Kind(
            "tag-twin", "tags that are nearly another",
            "A rare tag that is one letter from a frequent one is mostly a slip of the keyboard, "
            "and splits what should be learned together.",
            "issue:tag-twin",
        ),
        Kind(
            "tag-everywhere", "tags nearly everywhere",
            "A tag in nine of ten captions and more tells nothing apart. Is it what the trigger "
            "word stands for, remove it; is it the background, know that it comes along.",
            "issue:tag-everywhere", grave=False,
        ),
        Kind(
            "tag-once", "tags used once",
            "From one picture hardly anything is learned of a tag. Where another says the same, "
            "use that.",
            "issue:tag-once", grave=False,
        ),
        Kind(
            "alpha", "transparent",
            "What is transparent is put on white, here and in training. Is another background "
            "meant, put it in yourself.",
            "issue:alpha", grave=False,
        ),
        Kind(
            "turned", "turned by EXIF",
            "The camera wrote down which way is up, and lora-tui follows it. Other trainers may "
            "not: an export is upright in itself.",
            "issue:turned", grave=False,
        ),
    )
}  # fmt: skip

# Kinds that are told by a picture's pixels and measured once.
LOOKS = ("blur", "dark", "bright", "profile", "alpha", "turned")
# What issue: can ask besides: all that cannot be used, all that is not measured, any grave kind
# (but for duplicates, which dup:any asks).
MORE_ISSUES = ("unusable", "unchecked", "any")
ISSUES = tuple(
    kind.filter.removeprefix("issue:")
    for kind in KINDS.values()
    if kind.filter.startswith("issue:")
)
ISSUES = (*ISSUES, *MORE_ISSUES)
# exact, near: pictures with such a one beside; any: either. copy: all but the best of exact ones;
# extra: all but the best of either.
DUPLICATES = ("exact", "near", "any", "copy", "extra")


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """What mends a finding: an edit of many captions, previewed, made and taken back as any."""

    what: str
    filter: str
    edits: list[AnyEdit] = []
    state: Literal["rejected"] | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """How much of one kind there is. Rejected pictures are not counted."""

    kind: str
    count: int
    filter: str = ""  # that shows them; empty where there is none
    examples: list[str] = []  # tags, files
    more: int = 0  # of what examples are, beyond these
    fix: Fix | None = None
    unknown: str = ""  # why it could not be looked for, or not everywhere


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What the set is good for, one thing at a time, and why."""

    about: Literal["pictures", "steps", "sizes", "shapes", "framing"]
    text: str
    why: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset's findings in the order of KINDS, and advice."""

    dataset: str
    name: str
    resolution: int  # that "too small" is about
    trigger: str
    pictures: int  # not rejected
    unchecked: int  # of these, whose files are not measured yet
    at: float | None  # of the last whole check, Unix seconds
    findings: list[Finding]
    advice: list[Advice]


def shown(kind: Kind) -> str:
    """The filter that shows what counts of a kind."""
    if not kind.filter.startswith("issue:"):
        return kind.filter
    usable = " NOT issue:unusable" if kind.name == "no-caption" else ""
    return f"{kind.filter}{usable} NOT state:rejected"
