"""Environments: one file per source of games, one interface, written down in `episode`."""
