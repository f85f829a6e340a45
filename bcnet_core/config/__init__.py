"""Recipes: their schema, how they are read and overridden, and where they and their data live. No torch here."""
