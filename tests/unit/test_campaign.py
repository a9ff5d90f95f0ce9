"""A small part of the campaign against faults; `make stress` runs a tenth, `python tests/campaign.py` the whole."""

from campaign import inputs
from campaign.outcomes import Tally


def test_damaged_inputs_are_refused_or_read_alike():
    tally = Tally()
    inputs.campaign(tally, 150, seed=7)
    assert not tally.failed and set(tally.counts) == set(inputs.INPUTS)
