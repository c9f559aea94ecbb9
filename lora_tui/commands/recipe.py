"""``lora-tui recipe``: what a training run can be told. Needs no daemon."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from lora_tui.commands import recipe_import, recipe_new
from lora_tui.commands.common import Invocation, Subparsers, command, noun
from lora_tui.commands.console import table
from shared import recipe
from shared.errors import Exit


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "recipe", "the TOML files that say how to train")
    command(verbs, "list", list_them, "list the recipes that come with lora-tui")
    show = command(verbs, "show", show_it, "print a recipe as it is written")
    show.add_argument("recipe", metavar="RECIPE", help="a name from `recipe list`, or a file")
    recipe_new.add(verbs)
    recipe_import.add(verbs)
    check = command(
        verbs,
        "check",
        check_it,
        "check a recipe, and say how long it would be",
        "  lora-tui recipe check dragons.toml --pictures 40",
    )
    check.add_argument("recipe", metavar="RECIPE", help="a name from `recipe list`, or a file")
    check.add_argument("--pictures", type=int, default=0, help="count steps for so many pictures")
    add_set(check)
    options = command(verbs, "options", options_of_it, "list every option, its bounds and default")
    options.add_argument("--markdown", action="store_true", help="as the page docs/recipe.md")


def add_set(parser: Any) -> None:
    """``--set``, as every command that reads a recipe has it."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change one option, such as network.rank=16; may be repeated",
    )


def shipped() -> dict[str, Path]:
    """The recipes that come with lora-tui, by name."""
    folder = Path(str(resources.files("configs")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def path_of(name: str) -> Path:
    """The file of a recipe: one that exists, else one that came with lora-tui."""
    path = Path(name).expanduser()
    return path if path.exists() or path.suffix else shipped().get(name, path)


def list_them(call: Invocation) -> Exit:
    rows = [(name, recipe.load(path).title, str(path)) for name, path in shipped().items()]
    value = [{"name": name, "title": title, "path": path} for name, title, path in rows]
    call.console.show({"recipes": value}, lambda: table(("NAME", "TITLE", "FILE"), rows))
    return Exit.OK


def show_it(call: Invocation) -> Exit:
    path = path_of(call.args.recipe)
    loaded = recipe.load(path)
    if call.args.json:
        call.console.event(loaded)
    else:
        call.console.raw(path.read_text("utf-8"))
    return Exit.OK


def check_it(call: Invocation) -> Exit:
    path = path_of(call.args.recipe)
    made = recipe.load(path, call.args.overrides)
    pictures = call.args.pictures
    trained = pictures - recipe.held_out_count(made, pictures) if pictures else 0
    steps = recipe.total_steps(made, trained) if pictures else None
    value = {"path": str(path), "title": made.title, "steps": steps}
    epochs = f"{made.training.epochs} epochs at batch {made.training.batch_size}"
    line = f"{path}: a valid recipe, {epochs}"
    call.console.show(
        value, lambda: [f"{line}; {pictures} pictures make {steps} steps." if steps else f"{line}."]
    )
    return Exit.OK


def options_of_it(call: Invocation) -> Exit:
    if call.args.markdown:
        call.console.raw(page())
        return Exit.OK
    options = list(recipe.options())
    value = [
        {
            "key": o.key,
            "default": o.default,
            "must_be": o.must,
            "choices": o.choices,
            "help": o.help,
        }
        for o in options
    ]

    def lines() -> Iterator[str]:
        for option in options:
            yield f"{option.key} = {recipe.written(option.default)}"
            yield f"    {option.help} It is {option.must}."

    call.console.show({"options": value}, lines)
    return Exit.OK


def page() -> str:
    """``docs/recipe.md``, made from the schema."""
    lines = [
        "# The recipe",
        "",
        "A recipe is a TOML file that says everything about a training run. What it does not say "
        "has the value below; what lora-tui does not know is refused, with the right name "
        "suggested. `--set section.option=value` changes one option on the command line.",
        "",
        "This page is made from `shared/recipe.py` by `make docs`.",
    ]
    section = None
    for option in recipe.options():
        here, _, name = option.key.rpartition(".")
        if here != section:
            section = here
            title = ["## At the top", ""]
            if here:
                title = [f"## [{here}]", "", recipe.section_help(here), ""]
            lines += ["", *title, "| option | default | it must be | |", "|---|---|---|---|"]
        default = recipe.written(option.default)
        lines.append(f"| `{name}` | `{default}` | {option.must} | {option.help} |")
    return "\n".join(lines) + "\n"
