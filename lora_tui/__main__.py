"""``python -m lora_tui`` is ``lora-tui``."""

import sys

from lora_tui.cli import main

sys.exit(main())
