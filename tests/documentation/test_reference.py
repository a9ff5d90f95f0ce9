"""Every public name has a docstring and is on a page of the reference."""

import inspect
import re

import pytest
from documentation.pages import DOCS

import dormant
import dormant.torch
from dormant import interventions, metrics, regularisers
from dormant.torch import sb3

PAGES = "\n".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))
SHOWN = re.findall(r"^::: (\S+)$", PAGES, re.MULTILINE)


def public(module):
    """Returns the names in a module's `__all__`. Without `__all__`, returns its public functions and classes."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = inspect.getmembers(module, lambda each: inspect.isfunction(each) or inspect.isclass(each))
    inside = [name for name, each in own if each.__module__.startswith(module.__name__)]
    return [name for name in inside if not name.startswith("_")]


def needed():
    """Yields the full name of every public object, and the object."""
    for module in (
        dormant,
        dormant.torch,
        interventions,
        metrics,
        regularisers,
        dormant.how_many,
        dormant.torch.how_many,
    ):
        for name in public(module):
            yield f"{module.__name__}.{name}", getattr(module, name)
    for name in ("ReDoCallback", "InterventionCallback"):
        yield f"{sb3.__name__}.{name}", getattr(sb3, name)


def shown(one):
    """Whether a page of the reference shows this object, or the whole module of the object."""
    home = getattr(one, "__module__", None)
    names = {f"{home}.{getattr(one, '__name__', '')}", getattr(one, "__name__", "")}
    objects = [found for name in SHOWN if (found := resolved(name)) is not None]
    return any(found is one for found in objects) or bool({home, *names} & set(SHOWN))


def resolved(name):
    """Returns the object with this full name, or None if no such object exists."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = __import__(".".join(parts[:cut]), fromlist=["_"])
        except ImportError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return found
    return None


NEEDED = dict(needed())


@pytest.mark.parametrize("name", NEEDED)
def test_a_public_name_is_in_the_reference(name):
    one = NEEDED[name]
    members = [shown(each) for each in map(one.__dict__.get, public(one))] if inspect.ismodule(one) else []
    assert shown(one) or (members and all(members)), f"add `::: {name}` to a page in docs/reference"


@pytest.mark.parametrize("name", [name for name, one in NEEDED.items() if not isinstance(one, str)])
def test_a_public_name_has_a_docstring(name):
    text = inspect.getdoc(NEEDED[name]) or ""
    assert len(text) > 20 and not text.startswith(f"{name.rpartition('.')[2]}("), f"{name} has no docstring"


def test_every_line_of_the_reference_names_something():
    assert len(SHOWN) == len(set(SHOWN)) > 60
    assert not [name for name in SHOWN if resolved(name) is None]
