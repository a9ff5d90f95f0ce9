"""The flags of `dormant train` that configure the intervention."""

import re
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from dormant.cli.interventions import USES, Settings, intervention
from dormant.interventions import (
    FIRE,
    SNR,
    SWR,
    Chain,
    ClipWeights,
    ContinualBackprop,
    Dormant,
    DrM,
    Every,
    Gap,
    HareTortoise,
    NaP,
    PlasticityInjection,
    PooledShare,
    Prune,
    Recycle,
    ReDo,
    Renewal,
    Reset,
    ResetOptimizer,
    Share,
    ShrinkPerturb,
    SoftShrinkPerturb,
    WhenDormant,
    redo_as_published,
)
from dormant.perturbed_descent import UPGD
from dormant.regularisers import CChain, L2Init, Parseval, Spectral
from dormant.rl.networks import Injectable
from dormant.rl.networks.convolutional import MinAtarCNN


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), Chain()),
        (Settings("weight-decay"), Chain()),
        (Settings("redo"), Every(1_000, ReDo())),
        (Settings("redo", tau=0.025, outgoing="fresh", period=5, stop=9), Every(5, ReDo(0.025, "fresh"), stop=9)),
        (Settings("redo", layers=("dense",), start=10), Every(1_000, ReDo(layers=("dense",)), start=10)),
        (Settings("redo-as-published", xavier=False), Every(1_000, redo_as_published(xavier=False))),
        (Settings("reset"), Every(100_000, Reset(("dense",)))),
        (Settings("reset", layers=("head",), moments="keep"), Every(100_000, Reset(("head",), moments="keep"))),
        (Settings("prune", period=7), Prune(0.0, 7)),
        (Settings("shrink-perturb", keep=0.5), Every(1_000, ShrinkPerturb(0.5))),
        (Settings("redo", incoming="scaled"), Every(1_000, ReDo(incoming="scaled"))),
        (Settings("recycle", tau=0.2, score="utility", stop=9), Every(1_000, Recycle("utility", Dormant(0.2)), stop=9)),
        (
            Settings("recycle", number="share", share=0.2, recyclings=7, order="random", at_most=3),
            Every(1_000, Recycle(number=Share(0.2, 7), order="random", at_most=3)),
        ),
        (Settings("recycle", number="pooled-share", share=0.2), Every(1_000, Recycle(number=PooledShare(0.2)))),
        (
            Settings("recycle", number="gap", outgoing="fresh", layers=("dense",)),
            Every(1_000, Recycle(number=Gap(), renewal=Renewal("fresh"), layers=("dense",))),
        ),
        (Settings("regrama", at_most=2), Every(1_000, Recycle("gradient", Dormant(0.01), at_most=2))),
        (
            Settings("continual-backprop", maturity=7, moments="keep"),
            ContinualBackprop(maturity=7, renewal=Renewal(moments="keep")),
        ),
        (Settings("hare-tortoise", momentum=0.9, period=5), HareTortoise(0.9, 5)),
        (Settings("clip-weights", factor=3.0), ClipWeights(3.0)),
        (Settings("reset-optimizer", step_count="keep"), Every(1_000, ResetOptimizer(step_count="keep"))),
        (Settings("l2-init", strength=0.1), Chain()),
        (Settings("redo", when_dormant=0.3, period=5), Every(5, WhenDormant(0.3, ReDo()))),
        (Settings("clip-weights", bound="fan_in"), ClipWeights(bound="fan_in")),
        (Settings("snr", quantile=0.9, period=7, moments="keep"), SNR(0.9, 7, renewal=Renewal(moments="keep"))),
        (
            Settings("swr", utility="magnitude", choice="proportional", factor=0.1, period=5),
            Every(5, SWR("magnitude", "proportional", 0.1)),
        ),
        (Settings("soft-shrink-perturb", rate=1e-5, period=10), SoftShrinkPerturb(1e-5, 10)),
        (Settings("drm", least=0.3, most=0.8, tau=0.1), Every(100_000, DrM(0.3, 0.8, tau=0.1))),
        (Settings("fire", iterations=5, heads="fresh", start=9), Every(100_000, FIRE(5, "fresh"), start=9)),
        (Settings("nap"), Every(1, NaP())),
        (Settings("nap", everywhere=True, period=10), Every(10, NaP(everywhere=True))),
        (Settings("c-chain", share=0.1), Chain()),
        (Settings("upgd", noise=0.1), Chain()),
        (Settings("plasticity-injection", at=7), PlasticityInjection(7)),
    ],
    ids=str,
)
def test_settings_become_the_intervention_they_name(settings, expected):
    assert intervention(settings) == expected


@pytest.mark.parametrize("name", sorted(USES))
def test_a_setting_that_an_intervention_does_not_use_is_refused(name):
    values = {"tau": 0.1, "keep": 0.5, "layers": ("dense",), "outgoing": "zero", "period": 10, "xavier": True}
    for setting, value in values.items():
        if setting in USES[name]:
            intervention(Settings(name, **{setting: value}))
        else:
            with pytest.raises(ValueError, match=f"--intervention {name} does not use --{setting}"):
                intervention(Settings(name, **{setting: value}))


def test_weight_decay_is_the_papers_unless_it_is_set(built):
    assert built("--intervention", "weight-decay").agent.weight_decay == 1e-5
    assert built("--intervention", "weight-decay", "--weight-decay", "1e-3").agent.weight_decay == 1e-3
    assert built().agent.weight_decay == 0


def test_a_penalty_is_the_agents(built):
    assert built("--intervention", "l2-init", "--strength", "0.1").agent.regulariser == L2Init(0.1)
    assert built("--intervention", "parseval").agent.regulariser == Parseval()
    assert built("--intervention", "spectral").agent.regulariser == Spectral()
    assert built("--intervention", "c-chain", "--strength", "9", "--share", "0.1").agent.regulariser == CChain(0.1, 9.0)
    assert built("--intervention", "c-chain").agent.drawn_batch == 64
    assert built().agent.regulariser is None


def test_upgd_is_the_agents_optimizer(built):
    assert built("--intervention", "upgd", "--noise", "0.01").agent.upgd == UPGD(noise=0.01)
    assert built("--intervention", "upgd").agent.upgd == UPGD() and built().agent.upgd is None


def test_plasticity_injection_brings_the_network_that_it_needs(built):
    training = built("--intervention", "plasticity-injection", "--at", "7")
    assert training.intervention == PlasticityInjection(7)
    assert training.agent.network == Injectable(MinAtarCNN(), ("conv",))


@pytest.fixture
def own(monkeypatch):
    """Returns a user's module. It has valid and invalid interventions."""
    module = ModuleType("own")

    @dataclass(frozen=True)
    class Cure:
        init = ReDo.init
        update = ReDo.update

    @dataclass
    class Mutable:
        init = ReDo.init
        update = ReDo.update

    module.Cure, module.NotData = Cure, type("NotData", (), {"init": ReDo.init, "update": ReDo.update})
    module.Mutable = Mutable
    module.Broken, module.Number = lambda: 1 / 0, lambda: 5
    monkeypatch.setitem(sys.modules, "own", module)
    return module


def test_an_intervention_of_the_user_acts_alone_or_on_a_schedule(own):
    assert intervention(Settings("own:Cure")) == own.Cure()
    assert intervention(Settings("own:Cure", period=5, stop=9)) == Every(5, own.Cure(), stop=9)
    assert intervention(Settings("own:Cure", when_dormant=0.5)) == Every(1_000, WhenDormant(0.5, own.Cure()))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings("own:Cure", tau=0.1), "--intervention own:Cure does not use --tau"),
        (Settings("own:NotData"), "NotData must be a frozen dataclass"),
        (Settings("own:Mutable"), "Mutable must be a frozen dataclass"),
        (Settings("own:Broken"), "--intervention own:Broken: division by zero"),
        (Settings("own:Number"), "--intervention own:Number: "),
        (Settings("own:Missing"), "the module 'own' has no function 'Missing'"),
        (Settings("absent:Cure"), "cannot import the module 'absent'"),
        (Settings("redoo"), "did you mean redo?"),
    ],
)
def test_an_intervention_that_cannot_be_used_is_refused(own, settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        intervention(settings)
