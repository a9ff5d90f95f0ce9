"""docs/speed.md is what benchmarks/speed_page.py writes from the committed table."""

import runpy

from documentation.pages import DOCS, ROOT

WRITER = runpy.run_path(str(ROOT / "benchmarks" / "speed_page.py"))
SPEED = WRITER["Speed"]


def test_the_page_is_made_from_the_committed_table():
    speeds = WRITER["read"]()
    assert speeds and (DOCS / "speed.md").read_text() == WRITER["page"](speeds)


def test_each_loop_has_our_speed_and_a_clean_revision():
    for speed in WRITER["read"]():
        assert speed.agent_steps_per_second > 0
        assert speed.revision and "dirty" not in speed.revision, speed
        assert speed.kind in ("ours", "package", "stand-in") and (speed.kind == "package" or not speed.version), speed


def test_other_loops_are_compared_with_our_first_row():
    speeds = [SPEED("a loop", *row) for row in (("ours", "ours", 300.0), ("rejax", "package", 200.0, "0.1.3"))]
    assert "| rejax 0.1.3 | package | 200 | 1.50 x |" in WRITER["page"](speeds)


def test_a_loop_that_is_measured_again_replaces_its_rows(tmp_path):
    table, first, second = tmp_path / "speed.csv", SPEED("b", "ours", "ours", 2.0), SPEED("a", "ours", "ours", 3.0)
    WRITER["record"]([first, first._replace(name="other")], table)
    WRITER["record"]([second], table)
    WRITER["record"]([first._replace(agent_steps_per_second=4.0)], table)
    found = [(speed.loop, speed.name, speed.agent_steps_per_second) for speed in WRITER["read"](table)]
    assert found == [("a", "ours", 3.0), ("b", "ours", 4.0)]
    assert all(speed.machine and speed.revision and float(speed.load) >= 0 for speed in WRITER["read"](table))
