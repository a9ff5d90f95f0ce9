"""A wrong use of an intervention raises an error immediately. The error tells the user what to write."""

import json
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

# A wrong call -> a part of the error's message. These calls are made in JAX and in PyTorch.
MISTAKES = {
    "Every(1000, ClipWeights(1.0))": "ClipWeights(factor=1.0, bound='initial') must be called at every gradient step",
    "WhenDormant(0.5, Prune())": "can't be used within WhenDormant",
    "WhenDormant(ReDo(), 0.5)": "the share comes first: write WhenDormant(0.25, ReDo(",
    "WhenDormant(NAN, ReDo())": "share must lie above 0 and not above 1, got nan; 0.25 is a quarter of the neurons.",
    "Every(1000, ReDo)": "got the class ReDo; write ReDo(...)",
    "Chain(ReDo)": "got the class ReDo; write ReDo(...)",
    "Every(1e3, ReDo())": "period must be a whole number of gradient steps, got 1000.0; write 1000.",
    "Every(True, ReDo())": "period must be a whole number of gradient steps, got True.",
    "Every('1000', ReDo())": "period must be a whole number of gradient steps, got '1000'.",
    "Every(0, ReDo())": "period must be at least 1 gradient step, got 0.",
    "Every(10, ReDo(), start=1.5)": "start must be a whole number of gradient steps, got 1.5.",
    "Every(10, ReDo(), stop=1e6)": "stop must be a whole number of gradient steps, got 1000000.0; write 1000000.",
    "Every(10, ReDo(), 20, 20)": "expected 0 <= start < stop in gradient steps, got start=20, stop=20.",
    "Every(ReDo(), 1000)": "the period comes first: write Every(1_000, ReDo(",
    "Chain([ReDo(), Reset()])": "write Chain(*interventions)",
    "Chain(None)": "expected an intervention (an object with `init`",
    "ReDo('0.1')": "tau must be a number, got '0.1'; with 0,",
    "ReDo(True)": "tau must be a number, got True; with 0,",
    "ReDo(NAN)": "tau must be at least 0, got nan; with 0, only silent neurons are dormant",
    "ReDo(layers='dense')": "layers must be a tuple of names, got 'dense'; write layers=('dense',).",
    "ReDo(layers=['dense'])": "layers must be a tuple of names, got ['dense']; write layers=('dense',).",
    "ReDo(outgoing='none')": "outgoing must be one of 'zero', 'fresh', got 'none'.",
    "Recycle('size')": "score must be one of",
    "Recycle('gradient', 0.01)": "number must be a rule that sets how many neurons to recycle, got 0.01; write for",
    "Recycle(number=Dormant)": "got the class Dormant; write for instance Dormant(tau=0.1)",
    "Recycle(at_most=2.5)": "at_most must be a whole number of neurons, got 2.5.",
    "Recycle(at_most=0)": "at_most must be at least 1 neuron, got 0; omit it to recycle without a limit.",
    "Recycle(renewal='fresh')": "renewal must be a Renewal, got 'fresh'; write Renewal(...).",
    "Share(0.1, 2.5)": "recyclings must be a whole number of updates, got 2.5.",
    "Share(NAN)": "share must lie above 0 and not above 1, got nan; 0.1 is a tenth of the neurons.",
    "PooledShare(highest=-1.0)": "highest must be at least 0, got -1.0.",
    "Gap(1)": "least must be above 1, got 1; neighbours that are equal have a gap of 1.",
    "Gap(4, NAN)": "highest must be at least 0, got nan.",
    "Gap(4, floor='a')": "floor must be a number, got 'a'; scores below it count as equal.",
    "ContinualBackprop(maturity=1.5)": "maturity must be a whole number of updates, got 1.5.",
    "ContinualBackprop(maturity=-1)": "maturity must be at least 0 updates, got -1.",
    "ContinualBackprop(decay=1)": "decay must be at least 0 and below 1, got 1; 0 uses only the last utility.",
    "ContinualBackprop(renewal=None)": "renewal must be a Renewal, got None",
    "SNR(Renewal())": "quantile must be a number, got Renewal(",
    "SNR(1.0)": "quantile must lie above 0 and below 1, got 1.0.",
    "SNR(growth=math.inf)": "growth must be at least 1 and finite, got inf",
    "SNR(period=1e4)": "period must be a whole number of gradient steps, got 10000.0; write 10000.",
    "SNR(least=300, most=200)": "expected least <= most <= 2**30 gradient steps, got least=300 and most=200.",
    "DrM(least=NAN)": "least must lie between 0 and 1, got nan.",
    "DrM(0.9, 0.2)": "expected least <= most, got least=0.9 and most=0.2.",
    "DrM(slope=-1)": "slope must be at least 0 and finite, got -1; the paper uses 2.",
    "DrM(layers='actor')": "write layers=('actor',).",
    "SoftShrinkPerturb(1000, 1e-6)": "rate must lie above 0 and not above 1, got 1000; Juliani and Ash 2024 use 1e-6.",
    "SoftShrinkPerturb(period=1e3)": "period must be a whole number of gradient steps, got 1000.0; write 1000.",
    "Every(10, SoftShrinkPerturb())": "must be called at every gradient step, so it can't be used within Every",
    "Every(10, SNR())": "must be called at every gradient step, so it can't be used within Every",
    "SWR(1e-4)": "utility must be one of 'gradient', 'magnitude', got 0.0001.",
    "SWR(factor=0)": "factor must lie above 0 and not above 1, got 0",
    "FIRE(0)": "iterations must be at least 1 step, got 0; the paper uses 10.",
    "FIRE('keep')": "iterations must be a whole number of steps, got 'keep'.",
    "NaP('yes')": "everywhere must be True or False, got 'yes'.",
    "ClipWeights('initial')": "factor must be a number, got 'initial'.",
    "ClipWeights(math.inf)": "factor must be positive and finite, got inf.",
    "ClipWeights(bound='fan-in')": "bound must be one of 'initial', 'fan_in', got 'fan-in'.",
    "Prune(period=0)": "period must be at least 1 gradient step, got 0.",
    "ShrinkPerturb(1.5)": "keep must lie between 0 and 1, got 1.5; 1 keeps all weights, 0 replaces all.",
    "Reset('dense')": "layers must be a tuple of names, got 'dense'; write layers=('dense',).",
    "ResetOptimizer('keep', 'keep')": "moments and step_count are both 'keep', so nothing would be reset;",
    "HareTortoise(500)": "momentum must be at least 0 and below 1, got 500; with 0, nothing is averaged.",
    "HareTortoise(period=1e4)": "period must be a whole number of gradient steps, got 10000.0; write 10000.",
    "CChain(-0.1)": "share must be positive and finite, got -0.1; None keeps the strength fixed.",
    "CChain(strength=NAN)": "strength must be at least 0 and finite, got nan; 0 has no effect.",
    "CChain(window=1e4)": "window must be a whole number of gradient steps, got 10000.0; write 10000.",
    "L2Init('a')": "strength must be a number, got 'a'; 0 has no effect.",
    "Parseval(scale=0)": "scale must be positive and finite, got 0; with 1, incoming vectors are pulled towards length",
    "Parseval(free='head')": "free must be a tuple of names, got 'head'; write free=('head',).",
    "Spectral(power=1.5)": "power must be a whole number of factors, got 1.5.",
    "Renewal(incoming='none')": "incoming must be one of 'fresh', 'scaled', got 'none'.",
    "Reset(moments='none')": "moments must be one of 'fresh', 'keep', got 'none'.",
    "ReDo(coupled='none')": "coupled must be one of 'recycle', 'skip', got 'none'.",
    "ReDo(-0.1)": "tau must be at least 0, got -0.1; with 0,",
    "Share(0.5, 0)": "recyclings must be at least 1 update, got 0; leave it out for a constant share.",
    "Gap(floor=0)": "floor must be positive and finite, got 0; scores below it count as equal.",
    "ContinualBackprop(0.0)": "replacement_rate must lie above 0 and not above 1, got 0.0.",
    "WhenDormant(0.0, ReDo())": "share must lie above 0 and not above 1, got 0.0",
    "Every(10, Chain(ContinualBackprop()))": "can't be used within Every; use it alone, or in a Chain with other",
    "L2Init(-1.0)": "strength must be at least 0 and finite, got -1.0",
    "Spectral(power=0)": "power must be at least 1 factor, got 0",
    "CChain(fixed=0)": "fixed must be at least 1 gradient step, got 0.",
    "redo_as_published(NAN)": "tau must be at least 0, got nan",
}
# These calls are made in JAX only; tests/unit/test_torch_mistakes.py has those of PyTorch.
MISTAKES_IN_JAX = {
    "Every(1000, 0.1)": "expected an intervention (an object with `init`, `update`), got 0.1",
    "PlasticityInjection(at=2.5)": "at must be a whole number of gradient steps, got 2.5.",
    "UPGD(decay=1)": "decay must be at least 0 and below 1, got 1; 0 uses the last gradient only.",
    "WarmUp(ReDo(), steps=0)": "steps must be at least 1 gradient step, got 0.",
    "WarmUp(ReDo)": "got the class ReDo; write ReDo(...)",
    "Every(5, WarmUp(ReDo()))": "must be called at every gradient step",
    "PlasticityInjection(at=0)": "at must be at least 1 gradient step, got 0.",
    "UPGD(factor=0)": "factor must be positive and finite, got 0; with 2, a weight of utility 0 takes full steps.",
    "UPGD(weight_decay=-1)": "weight_decay must be at least 0 and finite, got -1.",
    "UPGD(noise=NAN)": "noise must be at least 0 and finite, got nan.",
    "upgd(-0.1)": "learning_rate must be positive and finite, got -0.1.",
    "upgd(0.1, UPGD())": "expected upgd(learning_rate, direction, settings)",
    "upgd(0.1, optax.scale_by_adam)": "expected upgd(learning_rate, direction, settings)",
    "upgd(0.1, settings=UPGD)": "and the class UPGD.",
    "penalised(TX, L2Init())": "expected penalised(penalty, tx), for instance penalised(L2Init(), optax.adam(1e-3)).",
    "penalised(L2Init, TX)": "expected penalised(penalty, tx)",
    "with_intervention(ReDo(), TX, apply, dict, X)": "the optimizer comes first",
    "with_intervention(TX, ReDo, apply, dict, X)": "got the class ReDo; write ReDo(...)",
    "trace(PARAMS, apply, X)": "the function comes first: write trace(apply, params, *inputs); got a dict.",
    "report(PARAMS, apply, X)": "the function comes first",
    "trace(apply, X, PARAMS)": "the parameters come before the inputs.",
    "with_intervention(TX, ReDo(), dict, apply, X).init(PARAMS)": "takes `apply` first, and then `init`.",
    "WIRING.scores(PARAMS, X[:0])": "expected at least one sample, got an empty batch: the inputs have shapes [(0,",
    "dormant_fraction(np.ones(3))": "expected a dictionary from layers to scores, got array([1., 1., 1.]); write {",
    "overlap_coefficient(np.ones(3), np.ones(3))": "expected two masks of the same neurons, got float32(3,) and",
    "overlap_coefficient(np.ones(3, bool), np.ones(4, bool))": "got bool(3,) and bool(4,).",
    "graft(Learner(PARAMS, TX.init(PARAMS)), {'a': True}, PARAMS, TX)": "mask must have the tree of the parameters",
    "ReDo(layers=('nine',)).init(Learner(PARAMS, TX.init(PARAMS)), NETWORK)": "no layer is called 'nine', or begins",
}
MISTAKES_IN_TRAINING = {
    "DeviceTraining(intervention=ReDo)": "got the class ReDo; write ReDo(...)",
    "DeviceTraining(intervention=[ReDo()])": "expected an intervention (an object with `init`, `update`), got a list",
    "DeviceTraining(intervention=dormant.torch.ReDo())": "dormant.torch.ReDo is for PyTorch; write dormant.ReDo(...)",
    "DeviceTraining(agent=DQN)": "agent must be a value, got the class DQN; write DQN(...).",
    "DeviceTraining(seeds=[0, 1])": "seeds must be a tuple of whole numbers, such as (0, 1), got [0, 1].",
    "DeviceTraining(agent_steps=1e5)": "agent_steps must be a whole number, got 100000.0; write 100000.",
    "DeviceTraining(replay_ratio='1')": "replay_ratio must be a number, got '1'; 1 is one gradient step per",
    "DeviceTraining(rank_batch=-1)": "rank_batch must be at least 0 states, got -1; 0 measures no rank.",
    "DQN(network=MinAtarCNN)": "network must be a value, got the class MinAtarCNN; write MinAtarCNN(...).",
    "DQN(n_step=1.5)": "n_step must be a whole number, got 1.5.",
    "DQN(learning_rate='a')": "learning_rate must be a number, got 'a'.",
    "DQN(regulariser=CChain)": "regulariser must be a value, got the class CChain; write CChain(...).",
    "DQN(upgd=UPGD)": "upgd must be a value, got the class UPGD; write UPGD(...).",
    "SAC(regulariser=L2Init)": "regulariser must be a value, got the class L2Init; write L2Init(...).",
    "SAC(hidden=256)": "hidden must hold at least one width of at least 1 neuron, got 256.",
    "MinAtarCNN(activation='gelu')": "activation must be one of 'relu', 'leaky_relu', 'crelu', 'fourier', got 'gelu'.",
    "MinAtarCNN(filters=7, activation='fourier')": "widths must be even, got 7.",
    "MinAtarCNN(gap='yes')": "gap must be True or False, got 'yes'.",
    "NatureCNN(width=math.nan)": "width must be positive and finite, got nan.",
    "ImpalaResNet(activation='fourier')": "not defined for the residual network; use the Nature CNN.",
}
PREPARED = """
import json, math, sys
import jax, numpy as np, optax
import dormant, dormant.regularisers, dormant.torch

NAN = math.nan

def apply(params, x):
    return jax.nn.relu(x @ params["dense"]) @ params["head"]

PARAMS = {"dense": np.ones((3, 4), np.float32), "head": np.ones((4, 2), np.float32)}
X, TX = np.ones((5, 3), np.float32), optax.adam(1e-3)
WIRING = dormant.trace(apply, PARAMS, X)
NETWORK = dormant.Network(WIRING, lambda key: PARAMS, TX)
RULES = vars(dormant.how_many)
JAX = {name: getattr(dormant, name) for name in dormant.__all__} | vars(dormant.regularisers) | RULES | globals()
TORCH = vars(dormant.torch) | vars(dormant.torch.how_many) | globals()
from dormant.rl.agents.dqn import DQN
from dormant.rl.agents.sac import SAC
from dormant.rl.device import DeviceTraining
from dormant.rl.networks.convolutional import ImpalaResNet, MinAtarCNN, NatureCNN

def said(mistake, names):
    try:
        eval(mistake, names)
        return "accepted"
    except (TypeError, ValueError) as error:
        return " ".join([str(error), *getattr(error, "__notes__", ())]).replace("\\n", " ")

NAMES = {"jax": JAX, "torch": TORCH, "training": JAX | globals()}
mistakes = json.loads(sys.argv[1])
print(json.dumps({kind: {each: said(each, NAMES[kind]) for each in mistakes[kind]} for kind in mistakes}))
"""
EVERY_MISTAKE = {"jax": MISTAKES | MISTAKES_IN_JAX, "torch": MISTAKES, "training": MISTAKES_IN_TRAINING}


def test_every_mistake_is_told_in_the_users_words():
    # Uses a new process, because in this process the test suite's type checks would raise first. One process for all,
    # because its imports take most of the time.
    asked = json.dumps({kind: [*mistakes] for kind, mistakes in EVERY_MISTAKE.items()})
    ran = subprocess.run([sys.executable, "-c", PREPARED, asked], check=True, capture_output=True, text=True)
    told = json.loads(ran.stdout)
    for kind, mistakes in EVERY_MISTAKE.items():
        wrong = {
            mistake: told[kind][mistake] for mistake, words in mistakes.items() if words not in told[kind][mistake]
        }
        assert not wrong, kind


@pytest.mark.parametrize("cure", EVERY_STEP, ids=repr)
def test_cures_of_every_step_stand_beside_a_schedule_and_not_in_it(cure):
    assert Chain(Every(10, ReDo()), cure).links[1] == cure
    for wrapped in (lambda: Every(10, cure), lambda: Every(10, Chain(ReDo(), cure))):
        with pytest.raises(ValueError, match="must be called at every gradient step"):
            wrapped()
