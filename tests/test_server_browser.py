"""The page in a real browser: a study is sent, followed and shown; a broken one told; one cancelled; on a phone too."""

import os
from pathlib import Path

import pytest

from tests.browser import chromium
from tests.serving import serving
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
    until(page, "return document.querySelectorAll('#panel-body svg image').length > 0")
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


def test_a_study_can_be_cancelled(page, study):
    send(page, study)
    until(page, "return /Waiting|screened/.test(document.getElementById('said').textContent)")
    keep_screenshot(page, f"stages-{width_of(page)}.png")
    page.find_element("id", "cancel").click()
    until(page, "return document.getElementById('said').textContent.startsWith('Cancelled')")
    assert page.find_element("id", "go").is_enabled()
