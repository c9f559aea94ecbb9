"""What a captioner is asked of a picture: a prompt whose fields are the picture's own."""

from __future__ import annotations

import re

from shared import tags
from shared.errors import Code, LoraError

FIELDS = ("trigger", "tags", "caption")
_FIELD = re.compile(r"\{(\w*)\}")


def check(prompt: str, trigger: str) -> None:
    """Raises LoraError(BAD_REQUEST) for a field that there is not, or that nothing is said for."""
    for name in _FIELD.findall(prompt):
        if name == "trigger" and not trigger:
            raise LoraError(
                Code.BAD_REQUEST,
                "The prompt has {trigger}, and this dataset has no trigger word yet: lora-tui "
                "dataset health DATASET --trigger WORD.",
            )
        if name not in FIELDS:
            raise LoraError(
                Code.BAD_REQUEST,
                f"A prompt has no field {{{name}}}: there are "
                f"{', '.join(f'{{{one}}}' for one in FIELDS)}.",
            )


def filled(prompt: str, *, trigger: str, caption: str) -> str:
    """The prompt for one picture. {tags} is its caption where that reads as tags, else nothing."""
    listed = caption if tags.is_list(caption) else ""
    values = {"trigger": trigger, "tags": listed, "caption": caption}
    return _FIELD.sub(lambda found: values[found[1]], prompt)
