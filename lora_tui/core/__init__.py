"""What the screens think with: no terminal, no widgets, tested without either."""
