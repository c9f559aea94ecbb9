"""The contract between lora-tui's processes: wire, recipe, errors, paths. No torch, no Textual."""

__version__ = "0.1.0"
