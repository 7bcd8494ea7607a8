"""The report in a real browser: a silent console, a table that sorts and filters, panels that open, by mouse or keyboard."""

import re

import pytest

from pipeline import open_run
from pipeline.report import write_report
from tests.browser import chromium
from tests.fabricate_run import fabricated_run, picture

pytestmark = pytest.mark.browser


def top_study(run):
    return open_run(run).studies.sort_values("probability", ascending=False, kind="stable")["study_key"].iloc[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fabricated_run(folder, 90, labels=("covid", "healthy"))
    picture(folder, top_study(folder))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture
def page(browser, run):
    """The report, freshly opened; when the test is over the console must have been silent."""
    browser.get("about:blank")
    browser.get((run / "report" / "index.html").as_uri())
    wait(browser, "return document.querySelectorAll('#table tbody tr').length > 0")
    yield browser
    assert browser.get_log("browser") == []


def wait(browser, script, seconds=10):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds).until(lambda driver: driver.execute_script(script))


def column(browser, name):
    """The texts of one column of the page shown."""
    place = browser.execute_script("return table.columns.findIndex((one) => one.name === arguments[0])", name)
    return browser.execute_script(
        "return [...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[arguments[0]].textContent)", place
    )


def keys_shown(browser):
    return browser.execute_script("return [...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[0].title)")


def press(browser, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def click(browser, css):
    browser.find_element("css selector", css).click()


def type_into(browser, css, text):
    field = browser.find_element("css selector", css)
    field.clear()
    field.send_keys(text)


def test_at_first_the_studies_stand_by_descending_probability(page, run):
    expected = open_run(run).studies.sort_values("probability", ascending=False, kind="stable")
    shown = keys_shown(page)
    assert shown == expected["study_key"].tolist()[: len(shown)]
    assert page.execute_script("return document.querySelector('th[data-name=probability]').ariaSort") == "descending"


@pytest.mark.parametrize("name", ["n_slices_scored", "study_key", "seconds"])
def test_a_header_sorts_one_way_and_then_the_other(name, page, run):
    click(page, f"th[data-name={name}] button")
    first = page.execute_script("return order.map((row) => column[arguments[0]][row])", name)
    click(page, f"th[data-name={name}] button")
    second = page.execute_script("return order.map((row) => column[arguments[0]][row])", name)
    known = sorted(value for value in first if value is not None)
    missing = [None] * (len(first) - len(known))
    assert [first, second] in ([known[::-1] + missing, known + missing], [known + missing, known[::-1] + missing])


def test_filters_leave_exactly_what_they_name(page, run):
    studies = open_run(run).studies
    type_into(page, "#low", "0.6")
    n_high = int((studies["probability"] >= 0.6).sum())
    assert f"{n_high} of 90 studies" in page.find_element("id", "shown").text
    click(page, "#filters button[type=reset]")
    wait(page, "return shown.length === 90")
    page.execute_script("document.getElementById('status').value = 'FAILED'")
    page.execute_script("document.getElementById('status').dispatchEvent(new Event('input', {bubbles: true}))")
    assert set(column(page, "status")) == {"FAILED"}
    assert len(keys_shown(page)) == int((studies["status"] == "FAILED").sum())
    click(page, "#filters button[type=reset]")
    type_into(page, "#find", "no_lung")
    wait(page, "return shown.length < 90")
    assert set(column(page, "reason")) == {"NO_LUNG_FOUND"}


def test_the_pager_shows_every_study_once(page, run):
    met = []
    while True:
        met += keys_shown(page)
        if page.execute_script("return document.getElementById('next').disabled"):
            break
        click(page, "#next")
    assert sorted(met) == open_run(run).studies["study_key"].tolist()


def test_a_study_opens_by_mouse_shows_its_slices_and_closes_by_escape(page, run):
    from selenium.webdriver.common.keys import Keys

    key = keys_shown(page)[0]
    click(page, "td button.key")
    wait(page, "return document.querySelectorAll('#panel .chart-dot').length > 0")
    slices = open_run(run).slices
    assert len(page.find_elements("css selector", "#panel .chart-dot")) == (slices["study_key"] == key).sum()
    assert key in page.find_element("id", "panel-title").text
    press(page, Keys.ESCAPE)
    wait(page, "return !document.getElementById('panel').open")
    wait(page, "return location.hash == '#studies'")  # a dialog tells that it closed only after it has


def test_a_study_opens_by_keyboard_alone_and_focus_comes_back(page):
    from selenium.webdriver.common.keys import Keys

    page.execute_script("document.querySelector('td button.key').focus()")
    press(page, Keys.TAB, Keys.ENTER)
    wait(page, "return document.getElementById('panel').open")
    assert page.execute_script("return document.getElementById('panel').contains(document.activeElement)")
    press(page, Keys.ESCAPE)
    wait(page, "return !document.getElementById('panel').open")
    assert page.execute_script("return document.activeElement.className") == "key"


@pytest.fixture
def panel(page):
    """The panel of the study that has pictures."""
    click(page, "td button.key")
    wait(page, "return document.querySelectorAll('#panel .picture').length >= 3")
    return page


def boxes(browser, figure=0):
    """The boxes drawn in one figure of the panel: [(dashed, label), ...]."""
    return browser.execute_script(
        """const figure = document.querySelectorAll('#panel .picture')[arguments[0]];
        const dashed = [...figure.querySelectorAll('.box-line')].map((box) => box.classList.contains('in-fill'));
        return dashed.map((one, n) => [one, figure.querySelectorAll('.tag')[n].textContent]);""",
        figure,
    )


def test_the_top_three_slices_show_exactly_the_details_above_the_threshold(panel, run):
    results, key = open_run(run).results, top_study(run).encode()
    row = results["studies/study_key"][:].tolist().index(key)
    first, last = (
        results["studies/first_slice"][row],
        results["studies/first_slice"][row] + results["studies/n_slices_scored"][row],
    )
    best = sorted(range(first, last), key=lambda n: -results["slices/probability"][n])[:3]
    for threshold in (0.8, 0.3):
        panel.execute_script("document.getElementById('box-from').value = arguments[0]", threshold)
        panel.execute_script("document.getElementById('box-from').dispatchEvent(new Event('input'))")
        for figure, number in enumerate(best):
            at = results["details/slice"][:] == number
            numbers = zip(results["details/probability"][at], results["details/lung_fraction"][at], strict=True)
            assert boxes(panel, figure) == [[lung < 0.5, str(n + 1)] for n, (p, lung) in enumerate(numbers) if p > threshold]


def test_the_scroll_walks_through_every_slice_by_keyboard(panel, run):
    from selenium.webdriver.common.keys import Keys

    scroll = panel.find_element("id", "scroll")
    n_slices = int(scroll.get_attribute("max")) + 1
    scroll.send_keys(Keys.HOME)
    said = [panel.find_element("id", "scroll").get_attribute("aria-valuetext")]
    for _ in range(n_slices - 1):
        press(panel, Keys.ARROW_RIGHT)
        said.append(panel.find_element("id", "scroll").get_attribute("aria-valuetext"))
    assert len(set(said)) == n_slices == (open_run(run).slices["study_key"] == top_study(run)).sum() + 1
    assert "left out" in said[-1]
    assert "No network saw it" in panel.find_element("id", "panel-body").text


def test_every_picture_is_shown_and_told_in_words(panel):
    figures = panel.execute_script(
        """return Promise.all([...document.querySelectorAll('#panel .picture')].map(async (figure) => {
        const picture = new Image(); picture.src = figure.querySelector('image').getAttribute('href'); await picture.decode();
        return [picture.naturalWidth, figure.querySelector('svg').getAttribute('aria-label')]; }))"""
    )
    assert len(figures) == 5  # three on top, the original and what the network saw
    assert all(width > 100 and re.search(r"slice \d+.*(no box|scored)", said) for width, said in figures)


def test_the_outline_can_be_taken_away(panel):
    assert panel.find_elements("css selector", "#panel polygon.outline")
    click(panel, "#outline")
    assert not panel.find_elements("css selector", "#panel polygon.outline")


def test_a_study_that_was_not_scored_says_so(page):
    type_into(page, "#find", "DECODE_ERROR")
    wait(page, "return shown.length < 90")
    click(page, "td button.key")
    wait(page, "return document.getElementById('panel-body').textContent.includes('No slice of this study was scored')")


def test_an_address_with_a_key_opens_that_study(browser, run):
    key = open_run(run).studies["study_key"].iloc[3]
    browser.get("about:blank")
    browser.get((run / "report" / "index.html").as_uri() + f"#study={key}")
    wait(browser, "return document.getElementById('panel').open")
    assert key in browser.find_element("id", "panel-title").text
    assert browser.get_log("browser") == []


def test_nothing_is_wider_than_the_window(page):
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
