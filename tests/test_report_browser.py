"""The report in a real browser: a silent console, a table that sorts and filters, panels that open, by mouse or keyboard."""

import pytest

from pipeline import open_run
from pipeline.report import write_report
from tests.browser import chromium
from tests.fabricate_run import fabricated_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fabricated_run(folder, 90, labels=("covid", "healthy"))
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
    assert page.execute_script("return location.hash") == "#studies"


def test_a_study_opens_by_keyboard_alone_and_focus_comes_back(page):
    from selenium.webdriver.common.keys import Keys

    page.execute_script("document.querySelector('td button.key').focus()")
    press(page, Keys.TAB, Keys.ENTER)
    wait(page, "return document.getElementById('panel').open")
    assert page.execute_script("return document.getElementById('panel').contains(document.activeElement)")
    press(page, Keys.ESCAPE)
    wait(page, "return !document.getElementById('panel').open")
    assert page.execute_script("return document.activeElement.className") == "key"


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
