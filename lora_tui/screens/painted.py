"""Pictures that were painted here, as a view fetches them."""

from __future__ import annotations

from typing import Any

from lora_tui.screens.base import Dialog, Place
from lora_tui.widgets.picture import Fetch
from shared import wire


def picture_fetch(place: Place | Dialog[Any], picture: str) -> Fetch:
    """How to fetch a generated picture at a side in pixels."""

    async def fetch(side: int) -> bytes:
        request = wire.GetPicture(picture=picture, width=side, height=side)
        return await place.lora.picture(request)

    return fetch
