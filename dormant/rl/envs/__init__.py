"""Environments: their interfaces in `environment`, and one file per family of tasks."""
