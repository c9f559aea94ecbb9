"""Recipes to start from, and a systemd user unit for the daemon. Data only."""
