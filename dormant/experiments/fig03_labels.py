"""Figure 3: in supervised learning, neurons become dormant only if the labels change."""

from dataclasses import replace

from dormant.experiments.benches import MANY_NEURONS, NOTHING_LEARNT, SOME_NEURONS
from dormant.lab.design import Arm, Claim, Design, Experiment, Panel, Quantity
from dormant.supervised.images import CIFAR10, Digits, FashionMNIST, ImageSet
from dormant.supervised.network import ImageCNN
from dormant.supervised.training import Classifier, SupervisedTraining

FIXED, SHUFFLED = "Fixed labels", "Shuffled labels"
SMALL = SupervisedTraining(Classifier(ImageCNN((4, 8, 8), 16)), images=512, epochs=6, shuffle_epochs=2, score_batch=128)
NARROW = SupervisedTraining(Classifier(ImageCNN((16, 32, 32))))
WIDE = SupervisedTraining()


def design(training: SupervisedTraining, images: ImageSet, seeds: int, leaves_out: str = "") -> Design:
    """A design with fixed and with shuffled labels."""
    arms = (Arm(FIXED, training), Arm(SHUFFLED, replace(training, labels="shuffled")))
    return Design(arms, (images,), tuple(range(seeds)), leaves_out)


def falls(tau: str) -> Claim:
    """In the paper from 9 % to 0.7 %."""
    statement = f"With fixed labels fewer neurons are dormant (τ = {tau}) at the end than at the start"
    return Claim(statement, Quantity(f"dormant/{tau}/all"), FIXED, None, "lower", -MANY_NEURONS)


def more_if_shuffled(tau: str) -> Claim:
    """In the paper 32 % against 0.7 %."""
    statement = f"With shuffled labels more neurons end dormant (τ = {tau}) than with fixed ones"
    return Claim(statement, Quantity(f"dormant/{tau}/all"), SHUFFLED, FIXED, "higher", MANY_NEURONS)


def every_shuffle_raises(tau: str) -> Claim:
    """In the paper by 12 to 24 points, from the epoch before a shuffle to the one after it."""
    statement = f"Each shuffle raises the share of dormant neurons (τ = {tau})"
    return Claim(statement, Quantity(f"rise/{tau}/all", "lowest"), SHUFFLED, None, "higher", SOME_NEURONS)


EXPERIMENT = Experiment(
    name="fig03",
    title="Shuffled labels make neurons dormant, fixed ones do not",
    designs={
        "smoke": design(SMALL, Digits(), 2, NOTHING_LEARNT),
        "pilot": design(NARROW, FashionMNIST(), 3, "CIFAR-10, and half of each convolution's filters."),
        "laptop": design(WIDE, FashionMNIST(), 5, "CIFAR-10."),
        "paper": design(WIDE, CIFAR10(), 3),
    },
    panels=(
        Panel("Dormant neurons (τ = 0)", "dormant/0/all", "epoch"),
        Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all", "epoch"),
        Panel("Dormant neurons of the dense layer (τ = 0.1)", "dormant/0.1/dense", "epoch"),
        Panel("Accuracy on the labels in force", "accuracy", "epoch"),
    ),
    claims=(
        *(falls(tau) for tau in ("0", "0.1")),
        *(more_if_shuffled(tau) for tau in ("0", "0.1")),
        *(every_shuffle_raises(tau) for tau in ("0", "0.1")),
    ),
    published=("cifar10",),
    settings=(
        "Our sources say little about the network: ours has strides instead of pooling. Neurons are scored on 1,000 "
        "training images. Labels are shuffled over all 10,000 images, and the first 20 epochs have the true labels. "
        "The batch size of 32 was chosen on one run of 60 epochs with shuffled labels on Fashion-MNIST, seed 0."
    ),
)
