"""Edits of many captions: a typed vocabulary, each word of it a pure function from text to text.

What a tag is, ``shared.tags`` says. What an edit was not asked to change stays as it is, to the
character: spaces, empty places between commas, line breaks, escaped parentheses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shared import tags
from shared.errors import UsageError

MOST_EDITS = 20
MOST_CHARACTERS = 2000  # of one argument

Function = Callable[[str], str]


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="edit"):
    """One change of a caption's text."""

    def function(self) -> Function:
        """The change itself. Raises EditError."""
        raise NotImplementedError


class AddTag(Edit, frozen=True, tag="add-tag"):
    """Behind the last tag, where the caption has no such tag yet."""

    tag: str

    def function(self) -> Function:
        tag = _tag(self.tag)
        return lambda text: tags.add(text, tag)


class AddFirst(Edit, frozen=True, tag="add-first"):
    """Before the first tag, where the caption has no such tag yet."""

    tag: str

    def function(self) -> Function:
        tag = _tag(self.tag)
        return lambda text: tags.add(text, tag, first=True)


class RemoveTag(Edit, frozen=True, tag="remove-tag"):
    """Every such tag, with one of its commas."""

    tag: str

    def function(self) -> Function:
        tag = _tag(self.tag)
        return lambda text: tags.remove(text, tag)


class RenameTag(Edit, frozen=True, tag="rename-tag"):
    """Every such tag; where the new name is there already, the old one goes."""

    tag: str
    to: str

    def function(self) -> Function:
        tag, to = _tag(self.tag), _tag(self.to)
        return lambda text: tags.rename(text, tag, to)


class FirstTag(Edit, frozen=True, tag="first-tag"):
    """The tag, where it is, before all others."""

    tag: str

    def function(self) -> Function:
        tag = _tag(self.tag)
        return lambda text: tags.to_front(text, tag)


class SortTags(Edit, frozen=True, tag="sort-tags"):
    """The tags of each line by the alphabet, the first ``keep`` apart. A line that ends as a
    sentence does is not a list of tags and stays."""

    keep: int = 0

    def function(self) -> Function:
        if self.keep < 0:
            raise EditError("The number of tags that stay in front is 0 or more.")
        return lambda text: tags.sort(text, self.keep)


class DedupeTags(Edit, frozen=True, tag="dedupe-tags"):
    """Each tag once a line: the first stays. A line that ends as a sentence does stays."""

    def function(self) -> Function:
        return tags.dedupe


class Replace(Edit, frozen=True, tag="replace"):
    """A text by another, wherever it stands."""

    old: str
    new: str
    any_case: bool = False

    def function(self) -> Function:
        old, new = self.old, self.new
        if not old:
            raise EditError("Say which text is to be replaced.")
        if not self.any_case:
            return lambda text: text.replace(old, new)
        found = re.compile(re.escape(old), re.IGNORECASE)
        return lambda text: found.sub(lambda _: new, text)


class ReplaceRegex(Edit, frozen=True, tag="replace-regex"):
    r"""What a regular expression of Python's ``re`` finds; ``\1`` and ``\g<name>`` in ``new``."""

    pattern: str
    new: str
    any_case: bool = False

    def function(self) -> Function:
        return _replacing(self.pattern, self.new, self.any_case)


class Prefix(Edit, frozen=True, tag="prefix"):
    """A text before the caption as it stands, unless it begins with it."""

    text: str

    def function(self) -> Function:
        added = _some(self.text)
        return lambda text: text if text.startswith(added) else added + text


class Suffix(Edit, frozen=True, tag="suffix"):
    """A text behind the caption as it stands, unless it ends with it."""

    text: str

    def function(self) -> Function:
        added = _some(self.text)
        return lambda text: text if text.endswith(added) else text + added


class Trigger(Edit, frozen=True, tag="trigger"):
    """A word before the caption and a comma, unless the caption has that word anywhere."""

    word: str

    def function(self) -> Function:
        return _triggering(self.word)


class Underscores(Edit, frozen=True, tag="underscores"):
    """Each _ to a space, but for the taggers' faces, such as ^_^."""

    def function(self) -> Function:
        return lambda text: _WORD.sub(_spaced, text)


AnyEdit = (
    AddTag
    | AddFirst
    | RemoveTag
    | RenameTag
    | FirstTag
    | SortTags
    | DedupeTags
    | Replace
    | ReplaceRegex
    | Prefix
    | Suffix
    | Trigger
    | Underscores
)


@dataclass(frozen=True)
class Kind:
    """How people meet an edit: its option ``--name``, its label, and its arguments' names."""

    edit: type[Any]  # one of AnyEdit
    label: str
    help: str
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.edit.__struct_config__.tag)

    def make(self, *arguments: str, **options: Any) -> AnyEdit:
        """The edit with its arguments in order."""
        edit: AnyEdit = self.edit(*arguments, **options)
        return edit


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(AddTag, "add tag", "add a tag behind the others, where it is missing", ("TAG",)),
        Kind(AddFirst, "add tag first", "add a tag before the others, where it is missing",
             ("TAG",)),
        Kind(RemoveTag, "remove tag", "remove a tag", ("TAG",)),
        Kind(RenameTag, "rename tag", "rename a tag; where the new name is, the old one goes",
             ("TAG", "TO")),
        Kind(FirstTag, "tag to front", "move a tag before all others, where it is", ("TAG",)),
        Kind(SortTags, "sort tags", "sort the tags by the alphabet; sentences stay"),
        Kind(DedupeTags, "each tag once", "remove tags that stand there already"),
        Kind(Replace, "replace", "replace a text by another", ("OLD", "NEW")),
        Kind(ReplaceRegex, "replace /regex/",
             r"replace what a regular expression finds; \1 in NEW is its first group",
             ("PATTERN", "NEW")),
        Kind(Prefix, "prefix", "put a text before the caption, unless it begins so", ("TEXT",)),
        Kind(Suffix, "suffix", "put a text behind the caption, unless it ends so", ("TEXT",)),
        Kind(Trigger, "trigger word", "put a word before the captions that have it nowhere",
             ("WORD",)),
        Kind(Underscores, "_ to space", "make each _ a space, but for faces such as ^_^"),
    )
}  # fmt: skip


class EditError(UsageError):
    """An edit that makes no sense, in words."""


def told(edit: AnyEdit) -> str:
    """An edit in a few words: ``rename tag “red” “blue”``."""
    kind = KINDS[str(edit.__struct_config__.tag)]
    arguments = (getattr(edit, name) for name in edit.__struct_fields__[: len(kind.arguments)])
    return " ".join([kind.label, *(f"“{_short(argument)}”" for argument in arguments)])


def editor(edits: Sequence[AnyEdit]) -> Function:
    """The function that makes all ``edits``, one after the other. Raises EditError."""
    if len(edits) > MOST_EDITS:
        raise EditError(f"At most {MOST_EDITS} edits at once; these are {len(edits)}.")
    for edit in edits:
        for name in edit.__struct_fields__:
            _check(getattr(edit, name))
    functions = [edit.function() for edit in edits]

    def edited(text: str) -> str:
        for function in functions:
            text = function(text)
        return text

    return edited


# ── texts ───────────────────────────────────────────────────────────────────────────────────────

_WORD = re.compile(r"[^\s,_]*_[^\s,]*")
_FACES = {  # tags of the danbooru vocabulary, which the WD taggers know
    "0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o",
    "@_@", "^_^", "o_o", "u_u", "x_x", "|_|", "||_||",
}  # fmt: skip


def _spaced(word: re.Match[str]) -> str:
    return word[0] if word[0].lower() in _FACES else word[0].replace("_", " ")


def _replacing(pattern: str, new: str, any_case: bool) -> Function:
    if not pattern:
        raise EditError("Say which regular expression is to be replaced.")
    try:
        found = re.compile(pattern, re.IGNORECASE if any_case else 0)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        message = getattr(error, "msg", error)
        raise EditError(f"This regular expression makes no sense: {message}.") from None
    try:
        found.sub(new, "")
    except (re.error, IndexError) as error:
        raise EditError(
            f"The replacement makes no sense: {error}. \\1 is what the first parentheses found, "
            "\\g<name> those of that name, \\\\ a backslash."
        ) from None
    return lambda text: found.sub(new, text)


def has_word(word: str) -> Callable[[str], bool]:
    """Whether a text has ``word`` as a word, in either case: what a trigger word is looked for by.

    Raises EditError.
    """
    word = word.strip()
    if not word or tags.BREAK.search(word):
        raise EditError("A trigger word is one word, or a few on one line.")
    lower, found = word.lower(), re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)

    def has(text: str) -> bool:
        told = text.lower()
        at = told.find(lower)
        if at >= 0 and len(told) == len(text):  # mostly the first is one, and sooner seen
            before, behind = told[at - 1 : at], told[at + len(lower) : at + len(lower) + 1]
            if not _in_word(before) and not _in_word(behind):
                return True
        return found.search(text) is not None

    return has


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _triggering(word: str) -> Function:
    has, word = has_word(word), word.strip()
    return lambda text: text if has(text) else tags.add(text, word, first=True)


# ── arguments ───────────────────────────────────────────────────────────────────────────────────


def _check(value: object) -> None:
    if not isinstance(value, str):
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        raise EditError("This is no valid text.") from None
    if len(value) > MOST_CHARACTERS:
        raise EditError(f"At most {MOST_CHARACTERS} characters each; this has {len(value)}.")
    if "\0" in value:
        raise EditError("A caption cannot have a NUL character.")


def _tag(tag: str) -> str:
    tag = tag.strip()
    if not tag:
        raise EditError("A tag is missing.")
    if "," in tag or tags.BREAK.search(tag):
        raise EditError(
            f"“{_short(tag)}” is more than one tag: commas and line breaks are between them. "
            "Replace changes any text."
        )
    return tag


def _some(text: str) -> str:
    if not text:
        raise EditError("A text is missing.")
    return text


def _short(text: object) -> str:
    text = str(text)
    return text if len(text) <= 40 else f"{text[:39]}…"
