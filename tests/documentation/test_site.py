"""The site builds without a warning. Every link and anchor of its pages leads to something that exists."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from documentation.pages import DOCS, ROOT
from documentation.site import built


class Links(HTMLParser):
    """The links of a page, the addresses from which it loads something, and its anchors."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe", "source") and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preconnect", "dns-prefetch"):
            self.loads.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return built(tmp_path_factory)


@pytest.fixture(scope="module")
def read(site):
    own = [file for file in site.rglob("*.html") if "repository" not in file.parts]
    return {file: Links(file.read_text()) for file in own}


def test_every_page_of_docs_is_on_the_site(site):
    pages = [page.relative_to(DOCS).with_suffix(".html") for page in (*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb"))]
    assert len(pages) > 30 and not [page for page in pages if not (site / page).exists()]
    assert all((site / page).exists() for page in ("changelog.html", "contributing.html", "log.html"))


def test_every_link_and_anchor_resolves(site, read):
    dead = []
    for file, page in read.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "data", "mailto", "javascript") or file.name == "404.html":
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchor = unquote(parts.fragment)
            known = read[target].anchors | {"", "__skip"} if target in read else None
            if not target.exists() or (anchor and known is not None and anchor not in known):
                dead.append((str(file.relative_to(site)), link))
    assert not dead


def test_no_page_loads_from_the_network(read):
    assert not [load for page in read.values() for load in page.loads if re.match(r"(https?:)?//", load)]


def test_a_dead_link_is_a_warning_and_so_an_error():
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "\nstrict: true" in settings and "anchors: warn" in settings and "not_found: warn" in settings


def test_examples_of_docstrings_are_code(read, site):
    page = read[site / "reference" / "jax.html"]
    assert {"dormant.trace", "dormant.with_intervention"} <= page.anchors
    text = (site / "reference" / "jax.html").read_text()
    assert "<blockquote>" not in text and text.count('class="gp">&gt;&gt;&gt;') > 30


def test_the_search_needs_no_server(site):
    assert (site / "search" / "search_index.js").stat().st_size > 100_000
    assert "assets/search-offline.js" in (site / "index.html").read_text()


def test_the_page_of_commands_has_their_help(site):
    text = (site / "reference" / "cli.html").read_text()
    assert "::help" not in text and "\x1b" not in text
    assert text.count("usage: dormant ") == 11
    assert {"--replay-ratio", "--dry-run", "--fit-steps", "--tensorboard"} <= set(re.findall(r"--[a-z-]+", text))
