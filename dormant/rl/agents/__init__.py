"""Agents: one readable page each, a frozen specification with pure methods."""
