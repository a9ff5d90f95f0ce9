"""The parts of the fault campaign: the inputs, the kinds of damage, and the possible outcomes."""
