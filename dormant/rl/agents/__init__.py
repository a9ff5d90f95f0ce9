"""Agents: frozen specifications with pure methods, and their settings."""
