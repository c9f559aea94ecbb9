"""Writing to a disk that may be full: room is asked for first, then the run waits and says so."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lora_daemon.engine.steering import Leave, Steering
from lora_daemon.pipe import NoSpace, Notice
from shared.errors import LoraError

RESERVE = 16 * 1024 * 1024  # bytes left free for the daemon's database, or a 50th of the disk
ROOM_PATIENCE = 2.0  # seconds that the daemon is given to make room before it is tried again
RETRY = 15.0  # seconds between attempts to save to a full disk
_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


class Space:
    """The disk that a run writes to. ``thin``: lets go of what the run itself can spare."""

    def __init__(self, root: Path, steering: Steering, thin: Callable[[], None]) -> None:
        self._root, self._steering, self._thin = root, steering, thin

    def insist(self, save: Callable[[], T], size: int) -> T:
        """Save ``size`` bytes and return what ``save`` does. Where the disk will not have them,
        make room, and where that is not enough say so once and wait until it will.

        Told to stop or suspend meanwhile, the run fails with the disk's error.
        """
        asked = said = False
        while True:
            try:
                self._check(size)
                saved = save()
                if said:
                    self._tell("There is room on the disk again, and the run has gone on.")
                return saved
            except LoraError as error:
                try:
                    if not asked and error.data.get("errno") in _FULL:
                        asked = True
                        self._make_room(size)
                        continue
                    if not said:
                        self._notice(error)
                        said = True
                    self._steering.hold(RETRY)
                except Leave:
                    raise error from None

    def _check(self, size: int) -> None:
        """Raises LoraError(STORAGE) while there is some room left: the daemon needs it."""
        disk = shutil.disk_usage(self._root)
        if disk.free < size + min(RESERVE, disk.total // 50):
            raise LoraError.storage("write to", self._root, OSError(errno.ENOSPC, ""))

    def _make_room(self, size: int) -> None:
        self._thin()
        self._steering.tell(NoSpace(run=self._steering.run, needed=size + 2 * RESERVE))
        self._steering.hold(ROOM_PATIENCE)  # the daemon says "resume" when it has done what it can

    def _notice(self, error: LoraError) -> None:
        self._tell(
            f"{error.message} The run waits, with all its work in memory, and tries again each "
            f"{RETRY:.0f} seconds."
        )

    def _tell(self, message: str) -> None:
        self._steering.tell(Notice(run=self._steering.run, message=message))
