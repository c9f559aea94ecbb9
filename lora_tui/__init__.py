"""The terminal client: a Textual app and a headless command line on one wire."""
