"""``lora-tui caption tags|candidates``: what captions are made of, and what they could be."""

from __future__ import annotations

from lora_tui.commands.common import Invocation, Subparsers, command, find
from lora_tui.commands.console import table
from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.core.differences import in_one_line
from lora_tui.core.offers import whose
from shared import wire
from shared.errors import Code, Exit, LoraError


def add(verbs: Subparsers) -> None:
    tags = command(
        verbs,
        "tags",
        list_tags,
        "count the tags of a dataset, the most frequent first",
        "  lora-tui caption tags dragons\n"
        "  lora-tui caption tags dragons --like 'red h'      # red hair, red_hat, light red hair\n"
        "  lora-tui caption tags dragons --json | jq -r '.tags[] | select(.count == 1).tag'",
    )
    tags.add_argument("dataset", metavar="DATASET_OR_DIR", help="a dataset, or its folder")
    tags.add_argument(
        "--like", default="", metavar="TEXT", help="those that begin so, or one of whose words does"
    )
    tags.add_argument("--limit", type=int, default=100_000, metavar="N", help="only the first N")
    candidates = command(
        verbs,
        "candidates",
        list_candidates,
        "list what a caption could be: what captioners say, and what it has been before",
        "  lora-tui caption candidates dragons 003.png\n"
        "  lora-tui caption candidates dragons 003.png --take 2   # caption undo brings it back",
    )
    candidates.add_argument("dataset", metavar="DATASET")
    candidates.add_argument("picture", metavar="PICTURE", help="as `caption list` names it")
    candidates.add_argument(
        "--take", type=int, default=0, metavar="N", help="make candidate N the caption"
    )


async def list_tags(call: Invocation) -> Exit:
    async with call.client() as client:
        wanted = call.args.dataset
        datasets = (await client.call(wire.GetState())).datasets
        here = [one.name for one in datasets if one.path == call.daemon_path(wanted)]
        dataset = find(datasets, here[0] if here else wanted, "dataset", "id", "name")
        found = await client.call(
            wire.GetTags(dataset=dataset.id, like=call.args.like, limit=call.args.limit)
        )

    def lines() -> list[str]:
        if not found.tags:
            return ["No such tag." if found.total else "No tag in any caption."]
        rows = [(str(tag.count), tag.tag) for tag in found.tags]
        return table((">CAPTIONS", "TAG"), rows)

    call.console.show(found, lines)
    return Exit.OK


async def list_candidates(call: Invocation) -> Exit:
    args = call.args
    async with call.client() as client:
        asked = wire.GetCandidates(dataset=args.dataset, item=args.picture)
        found = await client.call(asked)
        if args.take:
            if not 0 < args.take <= len(found.candidates):
                raise LoraError(
                    Code.NOT_FOUND,
                    f"{found.item.name} has {words.plural(len(found.candidates), 'candidate')}; "
                    f"there is no number {args.take}.",
                )
            changed = await client.call(
                wire.ChangeCaption(
                    dataset=found.item.dataset, item=found.item.id,
                    if_rev=found.item.caption.rev, text=found.candidates[args.take - 1].text,
                )
            )  # fmt: skip
            call.console.show(changed, lambda: [f"{changed.name}: {clean(changed.caption.text)}"])
            return Exit.OK

    def lines() -> list[str]:
        present = found.item.caption.text
        rows = [
            (str(number), whose(one), in_one_line(present, one.text))
            for number, one in enumerate(found.candidates, 1)
        ]
        return [clean(present), *(table((">", "WHOSE", "DIFFERENCE"), rows) if rows else [])]

    call.console.show(found, lines)
    return Exit.OK
