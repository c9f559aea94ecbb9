"""iTerm2's inline pictures, which WezTerm has too: the file itself, the terminal does the rest.

https://iterm2.com/documentation-images.html
"""

from __future__ import annotations

import base64


def encode(blob: bytes, across: int, down: int) -> str:
    """A PNG or JPEG, stretched over across × down cells from the cursor on, which stays."""
    options = ";".join(
        (
            "inline=1",
            f"size={len(blob)}",
            f"width={across}",
            f"height={down}",
            "preserveAspectRatio=0",
            "doNotMoveCursor=1",
        )
    )
    return f"\x1b]1337;File={options}:{base64.b64encode(blob).decode('ascii')}\x07"
