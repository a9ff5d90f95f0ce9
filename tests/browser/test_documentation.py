"""Opens the documentation's files in Chromium. No page has an error or a network request, and the search works."""

import pytest
from documentation.site import built

PAGES = (
    "index",
    "start/jax",
    "start/sb3",
    "concepts/dormant",
    "concepts/wiring",
    "howto/add-a-cure",
    "reference/jax",
    "reference/cli",
    "notebooks/measure",
    "results",
    "networks",
    "changelog",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return built(tmp_path_factory)


@pytest.fixture
def opened(browser):
    """Yields a browser tab, the list of its errors and warnings, and the list of its requests."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    faults, requests = [], []
    tab.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("requestfailed", lambda request: faults.append(request.url))
    tab.on("request", lambda request: requests.append(request.url))
    yield tab, faults, requests
    tab.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_an_error_and_without_the_network(opened, site, name):
    tab, faults, requests = opened
    tab.goto((site / f"{name}.html").as_uri())
    tab.wait_for_load_state("load")
    assert not faults
    assert requests and not [url for url in requests if not url.startswith(("file:", "data:"))]
    assert tab.locator("h1").first.inner_text().strip()
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_search_works_from_a_file(opened, site):
    tab, faults, requests = opened
    tab.goto((site / "index.html").as_uri())
    tab.locator("input[name=query]").click()
    tab.locator("input[name=query]").type("WhenDormant", delay=20)
    first = tab.locator(".md-search-result__link").first
    first.wait_for(timeout=20_000)
    assert "WhenDormant" in first.inner_text() + tab.locator(".md-search-result__list").inner_text()
    assert not faults and not [url for url in requests if not url.startswith(("file:", "data:"))]
