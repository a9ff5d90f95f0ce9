"""The public names: each exists, and `from dormant import *` imports all of them."""

import importlib.metadata

import dormant
import dormant.torch


def test_every_public_name_is_there_and_a_star_gives_them_all():
    names = {}
    exec("from dormant import *", names)
    assert set(dormant.__all__) <= set(names) and len(set(dormant.__all__)) == len(dormant.__all__)
    assert {"trace", "ReDo", "ReDoAsPublished", "how_many", "metrics", "regularisers"} <= set(dormant.__all__)
    assert dormant.how_many.Share(0.1).share == 0.1 and callable(dormant.metrics.effective_rank)


def test_every_public_name_for_pytorch_is_there_and_documented():
    assert sorted(dormant.torch.__all__) == sorted(set(dormant.torch.__all__))
    found = {name: getattr(dormant.torch, name) for name in dormant.torch.__all__}
    # Python gives named tuples and dataclasses without a docstring their signature as a docstring.
    assert not [name for name, one in found.items() if not one.__doc__ or one.__doc__.startswith(f"{name}(")]


def test_the_version_is_that_of_the_installed_package():
    assert dormant.__version__ == importlib.metadata.version("dormant")
