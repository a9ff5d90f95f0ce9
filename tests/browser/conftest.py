"""Fixtures: real runs, their report page, and a real browser."""

import os
import shutil
from pathlib import Path

import pytest
from small_laboratory import FIGURE, trained

from dormant.experiments import EXPERIMENTS
from dormant.lab.judging.claims import judged
from dormant.lab.judging.table import read
from dormant.lab.page import chapter, page


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """A folder with finished runs of two arms in two games. All workers of a test session share it."""
    base = tmp_path_factory.getbasetemp()
    return trained((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "small-laboratory")


@pytest.fixture(scope="session")
def report(runs, tmp_path_factory) -> Path:
    """The report page of the runs."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    frame = read(runs, "smoke", FIGURE)
    found = chapter(runs, "smoke", FIGURE, frame, judged(FIGURE, frame, "pilot"))
    others = [each for each in EXPERIMENTS if each.name != FIGURE.name]
    file.write_text(page([found], "smoke", others, file))
    return file


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium. If it is missing, tests fail in continuous integration and are skipped elsewhere."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        reason = "no Chromium found; install it (Debian: apt-get install chromium) to test the page in a browser."
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Turns Chromium's sandbox off, because it does not work for root, the usual user in containers.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()
