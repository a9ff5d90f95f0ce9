"""A wrong call of `dormant.torch` raises a clear one-line error and changes no weights."""

import json
import subprocess
import sys

PREPARED = """
import json, sys
import numpy as np
import torch
from torch import nn
import dormant
import dormant.torch as dt

X = torch.ones(2, 3)

def network(hidden=4):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    nn.init.constant_(net[0].bias, -100.0)
    return net

def adam(module):
    return torch.optim.Adam(module.parameters())

def plan(intervention):
    net = network()
    return dt.with_intervention(net, adam(net), intervention)

for mistake in json.loads(sys.argv[1]):
    net = network()
    wiring = dt.trace(net, X)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    try:
        eval(mistake)
        said = "accepted"
    except (TypeError, ValueError) as error:
        said = str(error).replace("\\n", " ")
    changed = not all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    print("changed" if changed else said)
"""

# A wrong call -> a part of the error's message.
MISTAKES = {
    "dt.trace(net)": "trace needs example inputs: trace(module, x)",
    "dt.trace(nn.Linear, X)": "trace needs a torch.nn.Module, got a type",
    "dt.measure(net, X)": "expected a Wiring as the second argument, got a Tensor; write wiring = trace(module, *inp",
    "dt.recycle_(wiring, net, X)": "expected a Module as the first argument, got a Wiring",
    "dt.measure(net, wiring, X, tau=-0.1)": "tau must be at least 0, got -0.1",
    "dt.measure(net, wiring, np.ones((2, 3)))": "must be Tensor, not numpy.ndarray",
    "dt.measure(network(5), wiring, X)": "wired differently on these inputs",
    "dt.recycle_(net, wiring, X, optimizer=torch.optim.Adam)": "optimizers that train the module; got the class Adam.",
    "dt.recycle_(net, wiring, X, optimizer=adam(network()))": "the optimizer holds none of the parameters",
    "dt.recycle_(net, wiring, X, init=network())": "got a Sequential; write for instance init=lambda",
    "dt.recycle_(net, wiring, X, init=lambda: None)": "init() must build a torch.nn.Module, got a NoneType.",
    "dt.recycle_(net, wiring, X, init=lambda: net)": "it must build a fresh module at every call",
    "dt.recycle_(net, wiring, X, init=lambda: network(5))": "expected (4, 3), as in the module",
    "dt.recycle_(net, wiring, X, layers='0')": "layers must be a list of names, got the text '0'; write layers=['0'].",
    "dt.recycle_(net, wiring, X, layers=['1'])": "the wiring has no layers ['1']; it has ['0'].",
    "dt.recycle_(net, wiring, X, coupled='no')": "coupled must be one of 'recycle', 'skip', got 'no'.",
    "dt.ReDo(net, adam(net), period=0)": "period must be at least 1 gradient step, got 0.",
    "dt.ReDo(net, 1e-3)": "must be a torch.optim.Optimizer or a list of optimizers that train the module; got 0.001.",
    "dt.ReDo(adam(net), net)": "optimizer must be a torch.optim.Optimizer",
    "dt.with_intervention(net, adam(net), dt.ReDo)": "expected an intervention, got the class ReDo; write ReDo(...).",
    "dt.with_intervention(net, adam(net), dormant.ReDo())": "dormant.ReDo is for JAX; write dormant.torch.ReDo(...)",
    "dt.with_intervention(net, dt.ReDo(), adam(net))": "optimizer must be a torch.optim.Optimizer",
    "dt.with_intervention(net, adam(net), dt.ReDo(), net)": "got a Sequential; write for instance init=lambda",
    "plan(dt.ReDo(layers=('9',))).step(X)": "no layer is called '9', or begins with '9.'; the layers are ['0'].",
    "plan(dt.Reset(('9',))).step(X)": "no parameters belong to layer '9'",
    "plan(dt.Recycle('gradient')).step(X)": "no running average of the gradient of 0.weight",
    "plan(dt.ReDo()).step()": "step needs a batch of the module's inputs",
    "plan(dt.ReDo()).step(X, steps=0)": "steps must be at least 1 gradient step, got 0.",
    "plan(dt.ReDo()).step(X, steps=1.5)": "steps must be a whole number of gradient steps, got 1.5.",
    "plan(dt.DrM(layers=('9',))).step(X)": "no layer is called '9', or begins with '9.'; the layers are ['0'].",
    "plan(dt.NaP()).step(X)": "NaP needs a module that normalises its hidden layers, and found no such layer",
    "plan(dt.SNR)": "expected an intervention, got the class SNR; write SNR(...).",
    "plan(dormant.SNR())": "dormant.SNR is for JAX; write dormant.torch.SNR(...)",
    "dt.with_churn_term(net, dt.CChain())": "expected with_churn_term(cchain, module)",
    "dt.with_churn_term(dt.CChain(), net)(1.0, X)": "expected the loss (a tensor of one number) and the states",
    "dt.with_churn_term(dt.CChain(), net)(torch.tensor(1.0))": "expected the loss (a tensor of one number) and",
    "dt.report(net)": "trace needs example inputs: trace(module, x)",
    "dt.report(X, net)": "trace needs a torch.nn.Module, got a Tensor.",
    "plan(dt.ReDo()).step(X[:0])": "expected at least one sample, got an empty batch: the inputs have shapes [(0, 3)].",
    "plan(dt.ReDo()).load_state_dict({})": "expected the dictionary that `state_dict` of an object from with_interven",
    "plan(dt.ReDo()).load_state_dict(plan(dt.Reset()).state_dict())": "the state belongs to Reset(",
    "plan(dt.ReDo()).wiring": "the wiring is not known yet: call step or measure first",
    "dt.measure(net, wiring, X[:0])": "expected at least one sample, got an empty batch",
    "dt.trace(net, X[:0])": "expected at least one sample, got an empty batch",
    "dt.penalised(adam(net), dt.L2Init(), net)": "expected penalised(penalty, optimizer, module)",
    "dt.penalised(dt.L2Init(), adam(network()), net)": "the optimizer holds none of the parameters",
    "dormant.Chain(dt.ReDo())": "dormant.torch.ReDo is for PyTorch; write dormant.ReDo(...)",
}


def test_every_mistake_is_one_clear_error_and_changes_nothing():
    # Uses a new process, because the type checks of the test suite would raise first in this process.
    command = [sys.executable, "-c", PREPARED, json.dumps(list(MISTAKES))]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    told = dict(zip(MISTAKES, ran.stdout.splitlines(), strict=True))
    assert not {mistake: told[mistake] for mistake, words in MISTAKES.items() if words not in told[mistake]}


SB3 = """
import warnings; warnings.simplefilter("ignore")
import json, sys
import torch
from stable_baselines3 import DQN
import dormant
import dormant.torch as dt
from dormant.torch.sb3 import InterventionCallback, Networks, ReDoCallback

def dqn(width=8):
    options = dict(learning_starts=10, batch_size=8, buffer_size=100, train_freq=1, seed=0, device="cpu")
    return DQN("MlpPolicy", "CartPole-v1", **options, policy_kwargs={"net_arch": [width, 8]})

def learn(callback):
    return dqn().learn(30, callback=callback)

def with_init(init, tau=9.0):
    return learn(InterventionCallback(dt.Every(5, dt.ReDo(tau=tau)), init=init))

for mistake in json.loads(sys.argv[1]):
    try:
        eval(mistake)
        print("accepted")
    except (TypeError, ValueError) as error:
        print(str(error).replace("\\n", "/"))
"""

# A wrong call of the callbacks for Stable-Baselines3 -> a part of the error's message.
SB3_MISTAKES = {
    "InterventionCallback(dt.ReDo)": "got the class ReDo; write ReDo(...).",
    "InterventionCallback(dormant.ReDo())": "dormant.ReDo is for JAX; write dormant.torch.ReDo(...)",
    "InterventionCallback(0.1)": "expected an intervention (an object with `init`, `check`, `update_`), got 0.1;",
    "ReDoCallback(period=0)": "period must be at least 1 gradient step, got 0.",
    "ReDoCallback(period=1e3)": "period must be a whole number of gradient steps, got 1000.0; write 1000.",
    "ReDoCallback(tau=-0.1)": "tau must be at least 0, got -0.1; with 0",
    "ReDoCallback(tau='0.1')": "tau must be a number, got '0.1'; with 0, only silent neurons are dormant",
    "ReDoCallback(dqn())": "tau must be a number, got a DQN; with 0,",
    "learn(ReDoCallback)": "tau must be a number, got a dict; with 0,",
    "ReDoCallback(networks='q_net')": "must be a list of names, got the text 'q_net'; write networks=['q_net'].",
    "ReDoCallback(score_batch=0)": "score_batch must be at least 1 sample, got 0",
    "ReDoCallback(score_batch=6.4)": "score_batch must be a whole number of samples, got 6.4.",
    "ReDoCallback(init=dqn().policy)": "init must be a function that builds a fresh module at every call, got a DQNP",
    "with_init(lambda: None)": "no network of NoneType is known; expected a policy of SB3",
    "with_init(lambda: dqn(4).policy)": "has the shape (4, 4); expected (8, 4), as in the module.",
    "learn(ReDoCallback(networks=('actor',)))": "no layer is called 'actor', or begins with 'actor.'; the layers are",
    "learn(InterventionCallback(dt.Every(5, dt.Reset(('head',)))))": "no parameters belong to layer 'head'",
}


def test_every_mistake_in_stable_baselines3_is_one_clear_error():
    ran = subprocess.run(
        [sys.executable, "-c", SB3, json.dumps(list(SB3_MISTAKES))], check=True, capture_output=True, text=True
    )
    told = dict(zip(SB3_MISTAKES, ran.stdout.splitlines(), strict=True))
    assert not {mistake: told[mistake] for mistake, words in SB3_MISTAKES.items() if words not in told[mistake]}
