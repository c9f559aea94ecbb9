"""``lora-tui recipe import``: a recipe from what kohya's scripts are run with."""

from __future__ import annotations

from pathlib import Path

from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.console import table
from shared import recipe
from shared.errors import Exit


def add(verbs: Subparsers) -> None:
    own = command(
        verbs,
        "import",
        import_it,
        "make a recipe of kohya's config files or command line",
        "  lora-tui recipe import config_file.toml dataset_config.toml --out dragons.toml\n"
        "  lora-tui recipe import train.sh sample_prompts.txt --dataset dragons > dragons.toml\n\n"
        "For each option it says on stderr whether it was taken, is so by default, or was left\n"
        "out, and why. Files that a command line names are read too, where they are found.",
        aliases=["import-kohya"],
    )
    own.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a config .toml, a dataset .toml, a script with the command line, or sample prompts",
    )
    own.add_argument("--dataset", default="", metavar="NAME", help="train on this dataset")
    own.add_argument("--out", default="", metavar="FILE", help="write here; refuses to overwrite")


def import_it(call: Invocation) -> Exit:
    from lora_tui.core.recipe_files import imported, save

    files = [Path(name).expanduser() for name in call.args.files]
    made, lines = imported(files, call.args.dataset)
    report = table(
        ("", "KOHYA", "VALUE", "HERE", ""),
        [(one.verdict, one.key, one.value, one.ours, one.words) for one in lines],
    )
    for line in report:
        call.console.say(line)
    count = sum(one.verdict == "left out" for one in lines)
    call.console.say(f"{len(lines)} options, {count} of them left out.")
    if call.args.out:
        path = save(made, call.args.out)
        value = {"path": str(path), "options": [vars(one) for one in lines]}
        call.console.show(value, lambda: [str(path)])
    elif call.args.json:
        call.console.event({"recipe": made, "options": [vars(one) for one in lines]})
    else:
        call.console.raw(recipe.dump(made))
    return Exit.OK
