"""Widgets of our own: lists, charts, pictures, lines."""
