"""The public names: each exists, and `from dormant import *` imports all of them."""

import importlib.metadata

import dormant


def test_every_public_name_is_there_and_a_star_gives_them_all():
    names = {}
    exec("from dormant import *", names)
    assert set(dormant.__all__) <= set(names) and len(set(dormant.__all__)) == len(dormant.__all__)
    assert {"trace", "ReDo", "ReDoAsPublished", "how_many", "metrics", "regularisers"} <= set(dormant.__all__)
    assert dormant.how_many.Share(0.1).share == 0.1 and callable(dormant.metrics.effective_rank)


def test_the_version_is_that_of_the_installed_package():
    assert dormant.__version__ == importlib.metadata.version("dormant")
