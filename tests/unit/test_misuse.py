"""A wrong use of an intervention raises an error immediately. The error tells the user what to write."""

import subprocess
import sys

import pytest

from dormant import (
    SNR,
    Chain,
    ClipWeights,
    ContinualBackprop,
    Every,
    HareTortoise,
    PlasticityInjection,
    Prune,
    ReDo,
    SoftShrinkPerturb,
)

EVERY_STEP = [
    ClipWeights(),
    ContinualBackprop(),
    HareTortoise(),
    PlasticityInjection(at=5),
    Prune(),
    SNR(),
    SoftShrinkPerturb(),
]

# A wrong call -> a part of the error's message.
MISTAKES = {
    "Every(1000, ClipWeights(1.0))": "ClipWeights(factor=1.0, bound='initial') must be called at every gradient step",
    "WhenDormant(0.5, Prune())": "can't be used within WhenDormant",
    "Every(1000, ReDo)": "got the class ReDo; write ReDo(...)",
    "Chain(ReDo)": "got the class ReDo; write ReDo(...)",
    "Every(1e3, ReDo())": "period must be a whole number of gradient steps, got 1000.0; write 1000.",
    "Every(True, ReDo())": "period must be a whole number",
    "Every(0, ReDo())": "period must be at least 1 gradient step, got 0.",
    "Every(ReDo(), 1000)": "the period comes first: write Every(1_000, ReDo(",
    "Every(1000, 0.1)": "expected an intervention, which has `init` and `update`, got 0.1",
    "Chain([ReDo(), Reset()])": "write Chain(*interventions)",
    "Chain(None)": "expected an intervention",
    "ReDo(outgoing='none')": "outgoing must be one of 'zero', 'fresh', got 'none'.",
    "Recycle('size')": "score must be one of",
    "HareTortoise(period=1e4)": "period must be a whole number of gradient steps, got 10000.0; write 10000.",
    "PlasticityInjection(at=2.5)": "at must be a whole number of gradient steps, got 2.5.",
}


def test_every_mistake_is_told_in_the_users_words():
    # Uses a new process, because in this process the test suite's type checks would raise first.
    program = "import sys\nfrom dormant import *\nimport dormant\n"
    program += "from dormant.interventions import *\n"
    for mistake in MISTAKES:
        program += f"try: {mistake}; print('accepted')\nexcept (TypeError, ValueError) as error: print(error)\n"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    told = dict(zip(MISTAKES, ran.stdout.splitlines(), strict=True))
    assert not {mistake: told[mistake] for mistake, words in MISTAKES.items() if words not in told[mistake]}


@pytest.mark.parametrize("cure", EVERY_STEP, ids=repr)
def test_cures_of_every_step_stand_beside_a_schedule_and_not_in_it(cure):
    assert Chain(Every(10, ReDo()), cure).links[1] == cure
    for wrapped in (lambda: Every(10, cure), lambda: Every(10, Chain(ReDo(), cure))):
        with pytest.raises(ValueError, match="must be called at every gradient step"):
            wrapped()
