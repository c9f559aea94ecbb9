"""The Train form's recipes as files: opened, kohya's too, and saved."""

from __future__ import annotations

from collections.abc import Sequence

from textual.widgets import Select

from lora_tui.core import recipe_files
from lora_tui.kohya.report import Line
from lora_tui.screens.dialogs import AskText, Page
from lora_tui.screens.sweeping import Sweeping
from shared.errors import LoraError
from shared.recipe import Recipe


class Filing(Sweeping):
    """Mixed into Train."""

    _templates: list[tuple[str, str, Recipe]]
    _template: str

    async def _load_template(self) -> None:
        raise NotImplementedError

    async def _check(self) -> bool:
        raise NotImplementedError

    def action_open(self) -> None:
        def answered(text: str | None) -> None:
            if not text:
                return
            try:
                name, found = recipe_files.opened(text)
            except LoraError as error:
                self.notify(error.message, severity="error", timeout=10)
                return
            self._offer(name, found.recipe)
            if found.lines:
                self.app.push_screen(Page(f"{name}: what became of it", _said_of(found.lines)))

        asked = (
            "The file of a recipe on this machine; or kohya's, with spaces between: config and "
            "dataset .toml, a script with the command line, sample prompts."
        )
        self.app.push_screen(AskText("Open a recipe", asked, "~/"), answered)

    def _offer(self, name: str, made: Recipe) -> None:
        """A recipe of one's own is the one to start from."""
        name = f"yours: {name}"
        others = [one for one in self._templates if one[0] != name]
        self._templates = [(name, made.title or "opened", made), *others]
        self._template = name
        select = self.query_one("#templates", Select)
        with select.prevent(Select.Changed):
            select.set_options([(f"{one} · {title}", one) for one, title, _ in self._templates])
            select.value = name
        self.call_later(self._load_template)

    async def action_save(self) -> None:
        if not await self._check():
            return
        if self._axes:
            self.notify("A sweep is several recipes: take one value in each field to save it.")
            return
        made = self._form.recipe()

        def answered(text: str | None) -> None:
            if not text:
                return
            try:
                path = recipe_files.save(made, text)
            except LoraError as error:
                self.notify(error.message, severity="error", timeout=8)
            else:
                self.notify(f"Written: {path}")

        name = made.output.name or made.dataset.name
        said = "A new file on this machine; `lora-tui train FILE` trains it too."
        self.app.push_screen(AskText("Save the recipe", said, f"~/{name}.toml"), answered)


def _said_of(lines: Sequence[Line]) -> str:
    """What became of kohya's options, those first that are not quite what they were there."""
    told = [
        f"{line.key} {line.value}".strip() + f"\n  {line.verdict}: {line.words}"
        for line in lines
        if line.verdict in ("left out", "nearly")
    ]
    taken = sum(line.verdict == "taken" for line in lines)
    same = sum(line.verdict == "default" for line in lines)
    return "\n".join([f"{taken} options are taken, {same} are so anyway.", "", *told])
