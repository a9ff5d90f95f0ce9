"""Logged data for offline training: our own files, Dopamine's and Minari's."""
