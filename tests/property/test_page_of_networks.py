"""The titles, head and summary of docs/networks.md are up to date. Other tests check the line of each network."""

from networks.everything import JAX, TORCH, foreign_names
from networks.page import BEFORE, MAKER, PAGE

TABLES = PAGE[PAGE.index("\n## JAX") :]
TITLES = [row[0] for row in MAKER["rows_of"](TABLES)]


def test_the_page_has_one_line_for_each_network_in_order():
    jax, torch = foreign_names()
    assert [*(case.title for case in JAX), *jax, *(case.title for case in TORCH), *torch] == TITLES


def test_the_revision_before_has_counts_for_each_network_and_no_other():
    assert [title for title, _ in BEFORE] == TITLES


def test_no_title_is_used_twice_in_one_framework():
    assert len(BEFORE) == len(TITLES)


def test_the_head_and_the_summary_follow_from_the_tables():
    head = MAKER["HEAD"].format(before=MAKER["BEFORE"])
    assert head + MAKER["summary"](TABLES) + TABLES == PAGE
