"""Learning: environments, replay, networks, agents and the loop that joins them."""
