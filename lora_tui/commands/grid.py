"""``lora-tui grid``: one picture along up to three axes, as a labelled sheet and a folder."""

from __future__ import annotations

from collections.abc import Iterator

from lora_tui.commands import generate
from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.core import words
from shared import grids, wire
from shared.errors import Exit

AXES = """\
axes, written NAME=VALUES, the values between commas:
  seed steps cfg sampler base size    as the options of these names
  weight, weight:LORA                 of every LoRA, or of one; text-weight, guidance alike
  lora:LORA=OTHER,ANOTHER             others in its place, such as a run's checkpoints
  prompt=red,blue                     the first, wherever it stands in the prompt, becomes each
numbers also as ranges: 1-5, 0-1 (+0.25), 0-1 [5]"""


def add(subparsers: Subparsers) -> None:
    grid = command(
        subparsers,
        "grid",
        grid_it,
        "vary a picture along one to three axes, side by side on a sheet",
        "  lora-tui grid --lora dragons --prompt 'a dragon' -x 'weight=0-1 (+0.25)' -y seed=1-4\n"
        "  lora-tui grid --lora dragons --lora ink --prompt 'a red dragon' \\\n"
        "      -x 'weight:dragons=0,0.5,1' -y 'weight:ink=0,0.5,1' -z 'prompt=red,blue'\n"
        "  lora-tui grid --lora dragons --prompt 'a dragon' \\\n"
        "      -x lora:dragons=dragons-000004,dragons     # the checkpoints of a run",
    )
    grid.epilog = f"{grid.epilog}\n{AXES}"
    generate.add_settings(grid)
    for name, text in (("x", "columns"), ("y", "rows"), ("z", "blocks of both")):
        grid.add_argument(
            f"-{name}", f"--{name}", default="", metavar="NAME=VALUES", help=f"what varies: {text}",
            required=name == "x",
        )  # fmt: skip
    grid.add_argument(
        "--name", default="", help="of its folder; the same name and picture go on where they were"
    )
    grid.add_argument(
        "--out",
        type=generate.png_file,
        default="",
        metavar="FILE.png",
        help="write the sheet here as well",
    )


async def grid_it(call: Invocation) -> Exit:
    args = call.args
    axes = [text for text in (args.x, args.y, args.z) if text]
    spec = generate.asked(call)
    grids.cells(spec, [grids.read(text) for text in axes])  # mistakes are said before anything runs
    async with call.client() as client:
        made = await client.call(
            wire.PaintGrid(spec=spec, axes=axes, name=args.name), on_progress=call.report
        )
        for note in made.picture.notes:
            call.console.say(f"warning: {note}")
        if args.out:
            _, blobs = await client.fetch(wire.GetPicture(picture=made.picture.id))
            generate.write(args.out, blobs[0])
    call.console.show(made, lambda: _told(made, args.out))
    return Exit.OK


def _told(made: wire.Grid, out: str) -> Iterator[str]:
    yield out or made.picture.path
    kept = made.pictures - made.painted
    there = f", {kept} {'was' if kept == 1 else 'were'} there" if kept else ""
    yield f"{words.plural(made.pictures, 'picture')} in {made.folder}{there}"
