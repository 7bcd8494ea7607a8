"""The page in a real browser: a study is sent, followed and shown; a broken one told; one cancelled; on a phone too."""

import os
from pathlib import Path

import pytest

from tests.browser import chromium, faults
from tests.serving import line_that_breaks, serving
from tests.test_server import zipped

pytestmark = pytest.mark.browser
WAIT_S = 180


@pytest.fixture(scope="module")
def server(weights, plain, tmp_path_factory):
    with serving(weights, tmp_path_factory.mktemp("server") / "spool", key=plain.run.with_name("key")) as served:
        yield served


@pytest.fixture(scope="module")
def study(plain, tmp_path_factory):
    folder = next(path for path in sorted(plain.archive.rglob("*")) if path.is_file()).parent
    path = tmp_path_factory.mktemp("upload") / "study.zip"
    path.write_bytes(zipped([(file.name, file.read_bytes()) for file in sorted(folder.iterdir())]))
    return path


@pytest.fixture(params=[1280, 390])
def page(request, server):
    with chromium(request.param, 900) as browser:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.get(server.address + "/")
        yield browser
        serious = [one for one in browser.get_log("browser") if "Content Security Policy" in one["message"]]
        assert serious == []


def until(browser, script):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script(script))


def send(browser, path):
    browser.find_element("id", "files").send_keys(str(path))
    browser.find_element("id", "go").click()


def keep_screenshot(browser, name):
    """Where DRENET_SCREENSHOTS names a folder, for a person to look at."""
    if folder := os.environ.get("DRENET_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / name))


def said(browser):
    return browser.find_element("id", "said").text


def width_of(browser):
    return browser.execute_script("return document.documentElement.clientWidth")


def test_a_study_is_sent_followed_and_shown_in_the_reports_panel(page, study):
    send(page, study)
    until(page, "return document.querySelectorAll('#results .score').length === 1")
    until(page, "return !document.getElementById('rest').hidden")
    assert said(page).startswith("Answered in")
    wide = page.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width_of(page)
    names = [one.text for one in page.find_elements("css selector", "#downloads button")]
    assert {"answer.json", "studies.csv"} <= set(names)
    keep_screenshot(page, f"answer-{width_of(page)}.png")
    page.switch_to.frame("panel")
    until(page, "return document.querySelectorAll('main svg image').length > 0")
    page.switch_to.default_content()
    page.execute_script("document.getElementById('panel').scrollIntoView()")
    keep_screenshot(page, f"panel-{width_of(page)}.png")
    page.find_element("id", "forget").click()
    until(page, "return document.getElementById('said').textContent === 'Deleted.'")


def test_a_broken_zip_is_told_with_its_cure(page, study, tmp_path):
    (tmp_path / "broken.zip").write_bytes(study.read_bytes()[:200])
    send(page, tmp_path / "broken.zip")
    until(page, "return !document.getElementById('problem').hidden")
    problem = page.find_element("id", "problem").text
    assert "NO_CT" in problem
    assert "ARCHIVE_CORRUPT" in problem
    keep_screenshot(page, f"broken-{width_of(page)}.png")


def test_a_study_can_be_cancelled(page, study, server):
    for _ in range(3):  # before it, so that it is not answered first
        server.accepted([("study.zip", study.read_bytes())])
    send(page, study)
    until(page, "return /Waiting|screened/.test(document.getElementById('said').textContent)")
    keep_screenshot(page, f"stages-{width_of(page)}.png")
    page.find_element("id", "cancel").click()
    until(page, "return document.getElementById('said').textContent.startsWith('Cancelled')")
    assert page.find_element("id", "go").is_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault_before_the_study_with_its_answer_or_with_a_problem(page, study, scheme, tmp_path):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    assert faults(page, "body") == []
    (tmp_path / "broken.zip").write_bytes(study.read_bytes()[:200])
    send(page, tmp_path / "broken.zip")
    until(page, "return !document.getElementById('problem').hidden")
    assert faults(page, "body") == []
    send(page, study)
    until(page, "return !document.getElementById('rest').hidden")
    until(page, "return document.getElementById('panel').contentDocument?.querySelector('main svg image') !== null")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width_of(page)
    keep_screenshot(page, f"{scheme}-{width_of(page)}.png")
    page.execute_script("document.getElementById('panel').scrollIntoView()")
    keep_screenshot(page, f"{scheme}-panel-{width_of(page)}.png")
    assert faults(page, "body") == []


def test_it_works_by_keyboard_alone(page, study):
    from selenium.webdriver import ActionChains, Keys

    def press(key, until_on):
        for _ in range(40):
            ActionChains(page).send_keys(key).perform()
            if page.switch_to.active_element.get_attribute("id") == until_on:
                return
        raise AssertionError(until_on)

    page.find_element("id", "files").send_keys(str(study))  # the chooser is the browser's own
    page.execute_script("document.body.tabIndex = -1; document.body.focus()")
    press(Keys.TAB, "files")
    press(Keys.TAB, "go")
    ActionChains(page).send_keys(Keys.ENTER).perform()
    until(page, "return !document.getElementById('rest').hidden")
    press(Keys.TAB, "forget")
    outline = "const style = getComputedStyle(document.activeElement); return style.outlineStyle + style.outlineWidth"
    assert page.execute_script(outline) == "solid3px"
    ActionChains(page).send_keys(Keys.SPACE).perform()
    until(page, "return document.getElementById('said').textContent === 'Deleted.'")


def test_an_upload_goes_on_where_the_line_broke(page, study, server):
    with line_that_breaks(server.address, study.stat().st_size // 2) as address:
        page.get(address + "/")
        send(page, study)
        until(page, "return document.getElementById('said').textContent.startsWith('The connection broke off')")
        keep_screenshot(page, f"broke-off-{width_of(page)}.png")
        until(page, "return !document.getElementById('rest').hidden")
        assert said(page).startswith("Answered in")
