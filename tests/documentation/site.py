"""Builds the documentation site once per test session."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from documentation.pages import ROOT


def built(tmp_path_factory) -> Path:
    """Returns the folder of the site. The first process that calls this function builds the site. The others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        site = shared / "site"
        if not (site / "sitemap.xml").exists():
            words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site)]
            ended = subprocess.run(
                words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
            )
            assert ended.returncode == 0 and not ended.stdout + ended.stderr, ended.stdout + ended.stderr
    return site
