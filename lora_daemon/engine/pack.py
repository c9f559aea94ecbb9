"""A base as one file: ``lora-tui model export`` runs this as a process of its own.

``python -m lora_daemon.engine.pack`` takes a ``shared.lora_orders.PackOrder`` in JSON on stdin, and
says one ``Packed`` or a ``Failure`` on stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from lora_daemon.engine import single_file
from lora_daemon.engine.device import explained
from shared.errors import Code, LoraError
from shared.filenames import typed
from shared.lora_orders import Packed, PackOrder


def main() -> None:
    """Obey the order on stdin."""
    answer: msgspec.Struct
    try:
        answer = pack(msgspec.json.decode(sys.stdin.buffer.read(), type=PackOrder))
    except Exception as error:
        answer = explained(error).failure()
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")


def pack(order: PackOrder) -> Packed:
    """Write the file. Raises LoraError: BAD_REQUEST, NOT_FOUND, INVALID_FILE, STORAGE."""
    base = Path(typed(order.base))
    if base.is_file():
        raise LoraError(Code.BAD_REQUEST, f"{order.base} is one file already: copy it.")
    size = single_file.pack(base, Path(typed(order.out)))
    return Packed(path=order.out, size=size)


if __name__ == "__main__":
    main()
