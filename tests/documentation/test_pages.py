"""Every code block of docs/ runs. Each page is followed from top to bottom in an empty folder."""

import re

import pytest
from documentation.pages import DOCS, FENCE, ROOT, blocks, follow, pages

OWN = {"howto/add-a-cure.md", "howto/add-a-figure.md"}  # each of these pages has its own test below
FOLLOWED = [page for page in pages() if blocks(page) and page.relative_to(DOCS).as_posix() not in OWN]


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_page_can_be_followed(page, tmp_path):
    follow(page, tmp_path)


def test_the_page_on_cures_makes_a_cure_that_recycles_and_a_test_that_passes(tmp_path):
    follow(DOCS / "howto" / "add-a-cure.md", tmp_path)
    assert {file.name for file in tmp_path.glob("*.py")} == {"jitter.py", "test_jitter.py"}
    broken = (tmp_path / "jitter.py").read_text().replace("layer.incoming for", "layer.outgoing for")
    (tmp_path / "jitter.py").write_text(broken)
    page = tmp_path / "again.md"
    page.write_text("```bash\npytest test_jitter.py\n```\n")
    with pytest.raises(AssertionError, match="1 failed"):
        follow(page, tmp_path)


def test_the_page_on_figures_makes_a_figure(tmp_path):
    follow(DOCS / "howto" / "add-a-figure.md", tmp_path)
    assert (tmp_path / "thresholds.png").stat().st_size > 10_000
    assert len(list((tmp_path / "runs" / "smoke").rglob("done"))) == 3


def test_a_page_that_fails_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    for wrong in ("```python\nraise ZeroDivisionError\n```\n", "```bash\ndormant figure fig99\n```\n"):
        page.write_text(wrong)
        with pytest.raises((ZeroDivisionError, ValueError)):
            follow(page, tmp_path)


def test_pages_to_start_with_are_short():
    starts = sorted((DOCS / "start").glob("*.md"))
    assert [page.stem for page in starts] == ["jax", "pytorch", "sb3"]
    assert all(len(page.read_text().splitlines()) <= 60 for page in starts)


def test_every_fence_is_closed_and_names_its_language_if_it_runs():
    for page in [*pages(), ROOT / "CONTRIBUTING.md"]:
        fences = re.findall(r"^```.*$", page.read_text(), re.MULTILINE)
        assert len(fences) == 2 * len(FENCE.findall(page.read_text())), page
        for block in blocks(page):
            known = {"python", "bash"} if block.language else {""}
            assert block.language in known and (
                block.language or not re.search("^dormant ", block.text, re.MULTILINE)
            ), (page, block)
