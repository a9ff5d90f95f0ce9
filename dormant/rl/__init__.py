"""Reinforcement learning: environments, networks, agents, replay, and the loops that train them."""
