"""The parts of the campaign against faults: what is damaged, how, and what may follow."""
