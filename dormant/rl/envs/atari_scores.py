"""The Atari games that are reproduced, with the scores of random play and of a human on each."""

from jaxtyping import Float
from numpy import ndarray

from dormant.names import suggestion

# Game -> score of random play, score of a human. Source: rliable for the games of Atari 100k, dqn_zoo for the others.
SCORES = {
    "Alien": (227.8, 7127.7),
    "Amidar": (5.8, 1719.5),
    "Assault": (222.4, 742.0),
    "Asterix": (210.0, 8503.3),
    "BankHeist": (14.2, 753.1),
    "BattleZone": (2360.0, 37187.5),
    "BeamRider": (363.9, 16926.5),
    "Boxing": (0.1, 12.1),
    "Breakout": (1.7, 30.5),
    "ChopperCommand": (811.0, 7387.8),
    "CrazyClimber": (10780.5, 35829.4),
    "DemonAttack": (152.1, 1971.0),
    "DoubleDunk": (-18.6, -16.4),
    "Enduro": (0.0, 860.5),
    "Freeway": (0.0, 29.6),
    "Frostbite": (65.2, 4334.7),
    "Gopher": (257.6, 2412.5),
    "Hero": (1027.0, 30826.4),
    "IceHockey": (-11.2, 0.9),
    "Jamesbond": (29.0, 302.8),
    "Kangaroo": (52.0, 3035.0),
    "Krull": (1598.0, 2665.5),
    "KungFuMaster": (258.5, 22736.3),
    "MsPacman": (307.3, 6951.6),
    "Pong": (-20.7, 14.6),
    "PrivateEye": (24.9, 69571.3),
    "Qbert": (163.9, 13455.0),
    "RoadRunner": (11.5, 7845.0),
    "Seaquest": (68.4, 42054.7),
    "SpaceInvaders": (148.0, 1668.7),
    "UpNDown": (533.4, 11693.2),
    "WizardOfWor": (563.5, 4756.5),
    "YarsRevenge": (3092.9, 54576.9),
    "Zaxxon": (32.5, 9173.3),
}

# The 17 games on which the paper trains DQN.
DQN_GAMES = (
    *("Asterix", "BeamRider", "Breakout", "DemonAttack", "DoubleDunk", "Enduro", "IceHockey", "Jamesbond", "MsPacman"),
    *("Pong", "Qbert", "RoadRunner", "Seaquest", "SpaceInvaders", "WizardOfWor", "YarsRevenge", "Zaxxon"),
)
_NOT_OF_100K = {
    "BeamRider",
    "DoubleDunk",
    "Enduro",
    "IceHockey",
    "SpaceInvaders",
    "WizardOfWor",
    "YarsRevenge",
    "Zaxxon",
}
# The 26 games of the Atari 100k benchmark, on which it trains DrQ.
ATARI_100K_GAMES = tuple(game for game in SCORES if game not in _NOT_OF_100K)


def human_normalised(game: str, score: float | Float[ndarray, "*shape"]) -> float | Float[ndarray, "*shape"]:
    """The human-normalised score: 0 for random play, 1 for a human.

    >>> human_normalised("Pong", -20.7), human_normalised("Pong", 14.6)
    (0.0, 1.0)

    Raises ValueError for an unknown game, with near names.
    """
    random, human = SCORES[known_game(game)]
    return (score - random) / (human - random)


def known_game(game: str) -> str:
    """The game's name. Raises ValueError, with similar names, for a game without scores.

    >>> known_game("DemonAttck")
    Traceback (most recent call last):
    ValueError: unknown Atari game 'DemonAttck'; did you mean DemonAttack?

    Without a similar name, the message lists all games.
    """
    if game in SCORES:
        return game
    raise ValueError(f"unknown Atari game {game!r}; {suggestion(game, SCORES)}")
