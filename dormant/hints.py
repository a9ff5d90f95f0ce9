"""Hints for error messages: similar names, extras to install, and faulty versions of jaxlib."""

import functools
import re
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, requires, version

FAULTS = {
    "0.10.2": "on CPUs it silently computes wrong values if a small product of more than 32,768 rows is then summed "
    "(jax-ml/jax 39103)",
    "0.11.0": "on CPUs it crashes or hangs if a product of arrays with 7 or 8 axes is then summed (jax-ml/jax 39257)",
}
RIGHT = "0.10.1"  # a version with neither of these faults


def fault_of(jaxlib: str) -> str | None:
    """Returns one line about the known fault of a version of jaxlib, or None if no fault is known.

    >>> print(fault_of("0.10.1"))
    None
    >>> print(fault_of("0.11.0"))
    jaxlib 0.11.0: on CPUs it crashes ... (jax-ml/jax 39257). Install another version: pip install jax==0.10.1
    """
    if jaxlib not in FAULTS:
        return None
    return f"jaxlib {jaxlib}: {FAULTS[jaxlib]}. Install another version: pip install jax=={RIGHT}"


@functools.cache
def warn_once() -> None:
    """Warns about the installed jaxlib if it has a known fault. Only the first call in a process has an effect."""
    # With stacklevel 3, the warning shows the line of the user's code that calls `trace`.
    if fault := fault_of(version("jaxlib")):
        warnings.warn(fault, stacklevel=3)


def extras() -> dict[str, list[str]]:
    """Returns a dictionary from each extra of dormant to the packages that it installs. Leaves out the extra "dev".

    The entry "" lists the packages that are always installed. The result is empty if dormant itself is not installed,
    for example if it is imported from a source folder.
    """
    try:
        requirements = requires("dormant") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {"": []}
    for requirement in requirements:
        package, marker = requirement.partition(";")[::2]
        extra = re.search(r"extra == ['\"](.+?)['\"]", marker)
        packages = found.setdefault(extra[1] if extra else "", [])
        name = re.split(r"[^\w.-]", package)[0]
        if name not in packages:
            packages.append(name)
    found.pop("dev", None)
    return found


def extra_of(module: str) -> str | None:
    """Returns the name of the extra that installs `module`, or None if no extra does.

    A package belongs to the module if it has the same name, or a name that starts with the module's name and a hyphen.
    """
    plain = module.casefold().replace("_", "-")
    for extra, packages in extras().items():
        if extra and any(re.fullmatch(rf"{re.escape(plain)}(-.*)?", package.casefold()) for package in packages):
            return extra
    return None


def suggestion(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Returns a hint for an error message about an unknown name: similar known names, or all names if none is similar.

    Capitals, underscores and hyphens are ignored. If `otherwise` is given, it replaces the list of all names.

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
    """Returns the known name that equals `name`, or `name` itself if no known name does.

    The comparison ignores capitals, underscores and hyphens.

    >>> canonical("shrink_perturb", ["reset", "shrink-perturb"])
    'shrink-perturb'
    """
    return next((each for each in known if folded(each) == folded(name)), name)


def folded(name: str) -> str:
    """Returns a name in lower case, without underscores and hyphens.

    >>> folded("Shrink_Perturb")
    'shrinkperturb'
    """
    return name.casefold().replace("_", "").replace("-", "")
