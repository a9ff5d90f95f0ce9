"""A generator of random networks, and oracles that check `dormant` on them without its tracer."""
