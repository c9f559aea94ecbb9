"""The Mixer's memory: two sides, what was tried, what is saved, copied and kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod

from lora_tui.core import mix_probe
from lora_tui.core.cells import clean
from lora_tui.screens import gridding, merging
from lora_tui.screens.dialogs import AskText, Choose, Confirm, Page
from lora_tui.screens.fighting import Fighting
from lora_tui.screens.mix_showing import MixShowing, summary
from lora_tui.widgets.tries import Try
from shared import mixes, wire
from shared.errors import LoraError
from shared.mixes import MixSpec
from shared.pictures import LoraUse


class MixKeeping(MixShowing):
    """Goes back to other mixes, and keeps this one."""

    def action_flip(self) -> None:
        async def flip() -> wire.Mix:
            await self._desk.done()
            return await self.lora.ask(wire.FlipMix(if_rev=self._desk.mix.rev))

        self.attempt(flip(), self._desk.take, group="flip")

    def _return_to(self, number: int) -> None:
        if number <= len(self._tries):
            self._desk.want(self._tries[number - 1].spec)

    action_tried_1 = partialmethod(_return_to, 1)
    action_tried_2 = partialmethod(_return_to, 2)
    action_tried_3 = partialmethod(_return_to, 3)
    action_tried_4 = partialmethod(_return_to, 4)
    action_tried_5 = partialmethod(_return_to, 5)
    action_tried_6 = partialmethod(_return_to, 6)
    action_tried_7 = partialmethod(_return_to, 7)
    action_tried_8 = partialmethod(_return_to, 8)
    action_tried_9 = partialmethod(_return_to, 9)

    def on_try_clicked(self, message: Try.Clicked) -> None:
        self._return_to(message.number)

    def action_again(self) -> None:
        self._watch(again=True)

    def action_keep(self) -> None:
        def kept(picture: wire.Picture) -> None:
            self.notify(f"Kept: {clean(picture.path)}", timeout=8)

        spec = mixes.picture(self.spec)
        self.attempt(self.lora.ask(wire.Generate(spec=spec)), kept, group="keep")

    def action_fight(self, *, remedies: bool = False) -> None:
        try:
            probe = mix_probe.wanted(self.spec)
        except LoraError as error:
            self.notify(error.message)
            return
        before = self.spec

        def taken(uses: list[LoraUse] | None) -> None:
            if uses is not None:
                self.attempt(self._to_other_side(before, uses), self._desk.take, group="flip")

        compare = wire.CompareLoras(loras=probe.loras, base=self.spec.base)
        self.app.push_screen(Fighting(compare, probe, remedies=remedies), taken)

    def action_remedy(self) -> None:
        self.action_fight(remedies=True)

    def action_merge(self) -> None:
        merging.merge(self, self.spec)

    async def _to_other_side(self, before: MixSpec, uses: list[LoraUse]) -> wire.Mix:
        """Put a remedy on the mix's other side, so that a flip takes it back."""
        await self._desk.done()
        after = mixes.remedied(before, uses)
        other = await self.lora.ask(wire.FlipMix(if_rev=self._desk.mix.rev))
        return await self.lora.ask(wire.ChangeMix(before=other.spec, after=after))

    def action_grid(self) -> None:
        gridding.grid(self, mixes.picture(self.spec))

    def action_copy(self) -> None:
        text = mixes.webui(self.spec)
        self.app.copy_to_clipboard(text)
        negative = f"\n\nNegative prompt:\n\n{self.spec.negative}" if self.spec.negative else ""
        self.app.push_screen(
            Page("As a WebUI prompt", f"Copied, if your terminal lets it:\n\n{text}{negative}")
        )

    def action_save(self) -> None:
        def save(name: str) -> None:
            self.attempt(self._save(name), lambda mix: self.notify(f"{mix.name} is saved."))

        def named(text: str | None) -> None:
            name = " ".join((text or "").split())
            known = next((mix for mix in self.state.mixes if name and mix.name == name), None)
            if known is not None:
                self.app.push_screen(
                    Confirm(f"Replace {name}?", f"It is saved already, by {known.by}."),
                    lambda yes: save(name) if yes else None,
                )
            elif name:
                save(name)

        self.app.push_screen(AskText("Save the mix as"), named)

    async def _save(self, name: str) -> wire.Mix:
        await self._desk.done()
        return await self.lora.ask(wire.SaveMix(name=name))

    def action_load(self) -> None:
        def load(mix: wire.Mix) -> None:
            self._desk.want(mix.spec)

        self._choose_saved("Load a mix", load)

    def action_forget(self) -> None:
        def forget(mix: wire.Mix) -> None:
            def answered(yes: bool | None) -> None:
                if yes:
                    self.attempt(self.lora.ask(wire.RemoveMix(name=mix.name)))

            self.app.push_screen(
                Confirm(f"Forget {mix.name}?", "The saved mix is deleted; LoRAs stay."), answered
            )

        self._choose_saved("Forget a mix", forget)

    def _choose_saved(self, title: str, then: Callable[[wire.Mix], None]) -> None:
        saved = [mix for mix in self.state.mixes if mix.name]
        if not saved:
            self.notify("No mix is saved yet.")
            return

        def chosen(place: int | None) -> None:
            if place is not None:
                then(saved[place])

        options = [("", mix.name, summary(mix.spec)) for mix in saved]
        self.app.push_screen(Choose(title, options), chosen)
