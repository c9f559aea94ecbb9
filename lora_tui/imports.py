"""The import this client started: it goes on whatever window is open."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from textual.message import Message

from lora_tui.core import words
from shared import wire
from shared.errors import LoraError
from shared.hub_ids import from_hub, is_hub

if TYPE_CHECKING:
    from lora_tui.app import LoraApp


class ImportProgressed(Message):
    def __init__(self, done: int, total: int, text: str) -> None:
        super().__init__()
        self.done = done
        self.total = total
        self.text = text


class ImportEnded(Message):
    """``result`` is None when it failed or was cancelled; ``said`` is for the person."""

    def __init__(self, result: wire.Imported | None, said: str, error: bool) -> None:
        super().__init__()
        self.result = result
        self.said = said
        self.error = error


class Imports:
    """At most one import at a time from this client."""

    def __init__(self, app: LoraApp) -> None:
        self._app = app
        self._under_way = False

    @property
    def running(self) -> bool:
        return self._under_way

    def start(self, path: str, name: str) -> None:
        self._under_way = True
        self._app.run_worker(self._work(path, name), group="import", exclusive=True)

    def cancel(self) -> None:
        """Cancels the request in the daemon too; what was read so far stays."""
        self._app.workers.cancel_group(self._app, "import")

    async def _work(self, path: str, name: str) -> None:
        post = self._app.post_message

        def progress(done: int, total: int, text: str) -> None:
            post(ImportProgressed(done, total, text))

        try:
            result = await self._app.ask(
                _request(path, name),
                on_progress=progress,
            )
        except LoraError as error:
            post(ImportEnded(None, error.message, True))
        except asyncio.CancelledError:
            post(ImportEnded(None, "Cancelled. What was read stays; import again to go on.", False))
            raise
        else:
            post(ImportEnded(result, summed(result), False))
        finally:
            self._under_way = False


def _request(text: str, name: str) -> wire.ImportDataset:
    hub = from_hub(text, "dataset") if is_hub(text) else None
    return wire.ImportDataset(path="" if hub is not None else text, hub=hub, name=name)


def summed(result: wire.Imported) -> str:
    """dragons: 833 pictures added, 2 problems."""
    text = f"{result.dataset.name}: {words.plural(result.added, 'picture')} added"
    if result.updated:
        text += f", {words.count(result.updated)} updated"
    if result.problems:
        text += f", {words.plural(len(result.problems), 'problem')}"
    return text + "."
