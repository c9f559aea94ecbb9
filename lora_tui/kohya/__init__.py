"""Recipes from what users of kohya's scripts have: config files, dataset configs, command lines."""
