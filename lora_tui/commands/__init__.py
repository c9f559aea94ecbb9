"""The command line, one module a noun. Importing them reaches neither Textual nor torch."""
