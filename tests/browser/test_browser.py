"""The report page in Chromium makes no requests, logs nothing, works by mouse and keyboard, and is accessible."""

import re
from importlib.resources import files

import pytest

from dormant.lab.judging.claims import RULINGS

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture
def opened(browser, report):
    """Yields a function that opens the page in a new tab. Fails if a tab logs a message or requests an http address."""
    contexts, faults = [], []

    def open_page(scheme="light", viewport=WIDE, **settings):
        context = browser.new_context(color_scheme=scheme, viewport=viewport, **settings)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
        tab.goto(report.as_uri())
        tab.locator(".field svg").first.wait_for()
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def arms(tab) -> set[str]:
    return {line.get_attribute("data-arm") for line in tab.locator(".plot:not(.published) .line").all()}


def test_claims_come_first_and_all_are_there(opened):
    tab = opened()
    assert tab.locator("section").first.get_attribute("id") == "claims"
    table = tab.get_by_role("table", name=re.compile("^All claims"))
    assert table.get_by_role("row").count() > 30
    judged = table.get_by_role("row").filter(has=tab.locator('a[href="#fig09"]'))
    assert judged.count() == 4
    for row in judged.all():
        words = row.locator(".verdict").inner_text()
        assert re.sub(r"[^a-z ]", "", words).strip() in RULINGS


def test_filters_hide_claims(opened):
    tab = opened()
    rows = tab.locator("table.claims tbody tr")
    status, every = tab.get_by_role("status"), rows.count()
    assert status.inner_text() == f"{every} of {every} claims"
    tab.get_by_role("combobox", name="Figure").select_option("fig09")
    shown = tab.locator("table.claims tbody tr:visible")
    assert {row.get_attribute("data-figure") for row in shown.all()} == {"fig09"} and shown.count() == 4
    verdict = shown.first.get_attribute("data-verdict")
    tab.get_by_role("combobox", name="Verdict").select_option(verdict)
    assert {row.get_attribute("data-verdict") for row in shown.all()} == {verdict}
    assert status.inner_text() == f"{shown.count()} of {every} claims"
    tab.get_by_role("combobox", name="Kind").select_option("primary")
    assert shown.count() == 0
    for name in ("Figure", "Verdict"):
        tab.get_by_role("combobox", name=name).select_option("all")
    assert {row.get_attribute("data-kind") for row in shown.all()} == {"primary"} and shown.count() == 3


def test_the_pointer_reads_values(opened):
    tab = opened()
    field = tab.locator(".field").first
    field.scroll_into_view_if_needed()
    box = field.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    reading = tab.locator(".reading").first
    assert reading.is_visible()
    text = reading.inner_text()
    assert "agent steps" in text and "DQN" in text and "ReDo" in text and "%" in text
    tab.mouse.move(2, 2)
    assert reading.is_hidden()


def test_arrow_keys_read_values(opened):
    tab = opened()
    field, reading = tab.locator(".field").first, tab.locator(".reading").first
    field.focus()
    tab.keyboard.press("Home")
    assert reading.inner_text().startswith("0 agent steps")
    tab.keyboard.press("ArrowRight")
    assert reading.inner_text().startswith("100 agent steps")
    tab.keyboard.press("End")
    assert reading.inner_text().startswith("800 agent steps")
    tab.keyboard.press("Escape")
    assert reading.is_hidden()


def test_an_arm_is_hidden_and_shown(opened):
    tab = opened()
    assert arms(tab) == {"DQN", "ReDo"}
    button = tab.get_by_role("button", name="ReDo")
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and arms(tab) == {"DQN"}
    assert not tab.locator('.map[data-arm="ReDo"]').first.is_visible()
    button.focus()
    tab.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true" and arms(tab) == {"DQN", "ReDo"}


def test_tabs_choose_the_environment_by_keyboard(opened):
    tab = opened()
    tabs = tab.get_by_role("tab")
    assert tabs.all_inner_texts() == ["MinAtar/Asterix", "MinAtar/Breakout", "all environments"]
    places = tab.locator(".plot:not(.published) figcaption span")
    assert all("Asterix" in text for text in places.all_inner_texts())
    tabs.first.focus()
    tab.keyboard.press("ArrowRight")
    assert tabs.nth(1).get_attribute("aria-selected") == "true"
    assert places.all_inner_texts() and all("Breakout" in text for text in places.all_inner_texts())
    assert tab.evaluate("document.activeElement.innerText") == "MinAtar/Breakout"
    shown = [each.get_attribute("data-environment") for each in tab.locator(".map:visible").all()]
    assert shown == ["MinAtar/Breakout"] * 2
    tab.keyboard.press("End")
    assert all("all environments" in text for text in places.all_inner_texts())


def test_score_maps_are_pictures(opened):
    tab = opened()
    widths = tab.evaluate("[...document.querySelectorAll('.map img')].map(image => image.naturalWidth)")
    assert len(widths) == 6 and set(widths) == {9}  # 800 agent steps have 9 log points


def test_details_open_on_paper(opened):
    tab = opened()
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("[...document.querySelectorAll('details')].every(each => each.open)")


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(opened, scheme, viewport):
    tab = opened(scheme, viewport, bypass_csp=True)  # the page's security policy would block axe-core
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    tab.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    found = tab.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    serious = [fault for fault in found["violations"] if fault["impact"] in ("serious", "critical")]
    assert not [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in serious]
