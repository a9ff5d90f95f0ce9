"""Suggestions for names that a user has mistyped."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The end of an error message about an unknown name: the nearest known names, or all of them if none is near.

    Capitals, underscores and hyphens do not count. `otherwise` replaces the list of all names.

    >>> suggestion("demon_attck", ["DemonAttack", "Pong"])
    'did you mean DemonAttack?'
    >>> suggestion("chess", ["DemonAttack", "Pong"])
    'expected one of DemonAttack, Pong.'
    """
    names = list(known)
    plain: dict[str, str] = {}
    for each in names:
        plain.setdefault(folded(each), each)
    near = [plain[found] for found in get_close_matches(folded(name), plain, n=2, cutoff=0.7)]
    return f"did you mean {' or '.join(near)}?" if near else otherwise or f"expected one of {', '.join(names)}."


def canonical(name: str, known: Iterable[str]) -> str:
    """The known name that equals `name` up to capitals, underscores and hyphens, or `name` if there is none.

    >>> canonical("shrink_perturb", ["reset", "shrink-perturb"])
    'shrink-perturb'
    """
    return next((each for each in known if folded(each) == folded(name)), name)


def folded(name: str) -> str:
    """A name in lower case, without underscores and hyphens.

    >>> folded("Shrink_Perturb")
    'shrinkperturb'
    """
    return name.casefold().replace("_", "").replace("-", "")
