"""A few cases of the fault campaign. `make stress` runs a tenth of all cases. `tests/campaign.py` runs all."""

from campaign import inputs
from campaign.outcomes import Tally


def test_damaged_inputs_are_refused_or_read_alike(tmp_path):
    tally = Tally(tmp_path)
    inputs.campaign(tally, 150, seed=7)
    assert not tally.failed and set(tally.counts) == set(inputs.INPUTS)
