"""The page of a report in a real browser: from a file, without a network."""

import pytest

from chromium import browser as browser
from reporting import everything
from vocabpress.report.collect import Collection
from vocabpress.report.page import to_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    results = everything()
    file.write_text(to_page(Collection(results, 1, 0), "Report"), encoding="utf-8")
    return file


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_charts_are_drawn_tables_sort_and_nothing_is_fetched(width, scheme, place, browser):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(place.as_uri())
    for part in page.locator("details").all():
        part.evaluate("part => { part.open = true; }")
    charts = page.locator(".chart").all()
    for chart in charts:
        chart.scroll_into_view_if_needed()
        chart.locator("svg.marks").wait_for()
    assert len(charts) == len(page.query_selector_all("svg.marks")) > 5
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert all(chart.evaluate("e => e.querySelector('svg').clientWidth <= e.clientWidth") for chart in charts)
    table = page.locator("table.sortable").first
    table.locator("th button", has_text="ratio to float32").click()
    shown = [float(cell) for cell in table.locator("tbody td:nth-child(3)").all_text_contents()]
    assert shown == sorted(shown)
    first = charts[0]
    first.locator(".role-legend-label text", has_text="LightToken").first.click()
    faded = "e => [...e.querySelectorAll('.mark-line path')].filter(p => p.getAttribute('opacity') === '0.07').length"
    page.wait_for_function(f"e => ({faded})(e) >= 1", arg=first.element_handle())
    assert complaints == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [place.as_uri()]
    page.close()


def test_a_printed_page_has_every_chart(place, browser):
    page = browser.new_page()
    page.goto(place.as_uri())
    page.pdf()
    count = page.evaluate("document.querySelectorAll('.chart').length")
    page.wait_for_function(f"document.querySelectorAll('svg.marks').length === {count}")
    page.close()
