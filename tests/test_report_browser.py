"""The report in a real browser: a silent console, a table that sorts and filters, panels that open, by mouse or keyboard."""

import base64
import io
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import pandas as pd
import pytest

from pipeline import open_run
from pipeline.report import study_page, study_value, write_report
from pipeline.run.journal import decode, read_raw
from pipeline.run.resume import last_records
from pipeline.run.run_toml import read_described
from pipeline.study.picture_pack import find_pictures, read_deep, read_pictures
from tests.browser import chromium, faults
from tests.fabricate_run import fabricated_run, picture

pytestmark = pytest.mark.browser


def top_study(run):
    return open_run(run).studies.sort_values("probability", ascending=False, kind="stable")["study_key"].iloc[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fabricated_run(folder, 90, labels=("covid", "healthy"))
    SHOWN["volume"] = picture(folder, top_study(folder))
    write_report(folder)
    return folder


SHOWN = {}


@pytest.fixture
def volume(run):
    """What the pictured study shows."""
    return SHOWN["volume"]


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
    values = "return Promise.all([valuesOf(arguments[0])]).then(([values]) => shown.map((row) => values[row]))"
    orders = []
    for said in ("descending", "ascending") if name != "study_key" else ("ascending", "descending"):
        before = page.execute_script("return asked")
        click(page, f"th[data-name={name}] button")
        wait(page, f"return asked > {before}")
        assert page.execute_script(f"return document.querySelector('th[data-name={name}]').ariaSort") == said
        orders.append(page.execute_script(f"return renew().then(() => 0).then(() => {{ {values} }})", name))
    known = sorted(value for value in orders[0] if value is not None)
    missing = [None] * (len(orders[0]) - len(known))
    wanted = [known[::-1] + missing, known + missing]
    assert orders == (wanted if name != "study_key" else wanted[::-1])


def test_implausible_studies_stand_first_until_a_header_sorts_all(browser, run, tmp_path):
    doubtful = tmp_path / "run"
    shutil.copytree(run, doubtful)
    table = doubtful / "studies.csv"
    table.write_text(table.read_text().replace("SLICE_GAP", "LUNG_IMPLAUSIBLE"))
    write_report(doubtful)
    browser.get((doubtful / "report" / "index.html").as_uri())
    wait(browser, "return document.querySelectorAll('#table tbody tr').length > 0")
    studies = open_run(doubtful).studies.sort_values("probability", ascending=False, kind="stable")
    is_first = studies["warnings"].fillna("").str.contains("LUNG_IMPLAUSIBLE")
    first = studies.loc[is_first, "study_key"].tolist()
    assert keys_shown(browser)[: len(first)] == first
    before = browser.execute_script("return asked")
    click(browser, "th[data-name=probability] button")
    wait(browser, f"return asked > {before} && document.querySelector('#table tbody tr').cells[0].title !== '{first[0]}'")
    shown = keys_shown(browser)
    assert shown == studies["study_key"].tolist()[: len(shown)]
    assert browser.execute_script("return document.querySelector('th[data-name=probability]').ariaSort") == "descending"
    assert browser.get_log("browser") == []


def network(run):
    return read_described(run).networks[0].column


def test_every_column_filters(page, run):
    studies = open_run(run).studies
    type_into(page, f"input[data-name={network(run)}]", ">= 0.6")
    n_high = int((studies[network(run)] >= 0.6).sum())
    wait(page, f"return shown.length === {n_high}")
    assert f"{n_high} of 90 studies" in page.find_element("id", "shown").text
    click(page, "#filters button[type=reset]")
    wait(page, "return shown.length === 90")
    choose(page, "select[data-name=status]", "FAILED")
    wait(page, f"return shown.length === {(studies['status'] == 'FAILED').sum()}")
    assert set(column(page, "status")) == {"FAILED"}
    choose(page, "select[data-name=status]", "")
    type_into(page, "input[data-name=n_slices_scored]", "7..8")
    wait(page, f"return shown.length === {studies['n_slices_scored'].between(7, 8).sum()}")
    type_into(page, "input[data-name=n_slices_scored]", "many")
    wait(page, "return shown.length === 90")
    assert page.find_element("css selector", "input[data-name=n_slices_scored]").get_attribute("aria-invalid") == "true"
    type_into(page, "#find", "no_lung")
    wait(page, "return shown.length < 90")
    assert set(column(page, "reason")) == {"NO_LUNG_FOUND"}


def choose(browser, css, value):
    browser.execute_script(
        """const field = document.querySelector(arguments[0]); field.value = arguments[1];
        field.dispatchEvent(new Event('input', {bubbles: true}));""",
        css,
        value,
    )


def test_what_is_shown_can_be_had_as_csv(page, run):
    page.execute_script("document.querySelector('#columns').closest('details').open = true")
    page.find_element("xpath", "//fieldset[@id='columns']//label[normalize-space()='kernel']/input").click()
    choose(page, "select[data-name=label]", "covid")
    n_covid = int((open_run(run).studies["label"] == "covid").sum())
    wait(page, f"return shown.length === {n_covid}")
    table = pd.read_csv(io.StringIO(page.execute_script("return csv()")))
    assert "kernel" not in table
    ordered = open_run(run).studies.query("label == 'covid'").sort_values(network(run), ascending=False, kind="stable")
    assert table["study_key"].tolist() == ordered["study_key"].tolist()
    assert table[network(run)].tolist() == pytest.approx(ordered[network(run)].tolist(), abs=1e-4, nan_ok=True)


def test_every_file_of_the_run_is_linked(page, run):
    links = page.execute_script("return [...document.querySelectorAll('#files a')].map((link) => link.href)")
    assert {Path(unquote(urlparse(link).path)).name for link in links} >= {"studies.csv", "results.h5", "run.toml"}
    assert all(Path(unquote(urlparse(link).path)).is_file() for link in links)


def test_the_pager_shows_every_study_once(page, run):
    met = []
    while True:
        met += keys_shown(page)
        if page.execute_script("return document.getElementById('next').disabled"):
            break
        number = page.execute_script("return page")
        click(page, "#next")
        wait(page, f"return document.getElementById('page').textContent.startsWith('page {number + 2} of')")
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
    click(panel, "#in-fill")
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


PAINTED = "return [...document.querySelectorAll('#panel canvas')].map((canvas) => canvas.dataset.painted ?? '')"


def test_every_picture_is_painted_and_told_in_words(panel):
    wait(panel, f"{PAINTED}.join() === 'deep,deep,deep,deep,preview'")  # three on top, the original and what the network saw
    said = panel.execute_script("return [...document.querySelectorAll('#panel .picture svg')].map((svg) => svg.ariaLabel)")
    assert all(re.search(r"slice \d+.*(no box|scored)", one) for one in said)


def test_boxes_that_are_no_finding_are_drawn_only_when_asked_for(panel):
    choose(panel, "#box-from", "0")
    wait(panel, "return document.querySelectorAll('#panel .box-line').length > 0")
    assert not panel.find_elements("css selector", "#panel .box-line.in-fill")
    click(panel, "#in-fill")
    wait(panel, "return document.querySelectorAll('#panel .box-line.in-fill').length > 0")


GREY = """const canvas = document.querySelectorAll('#panel canvas')[3], copy = document.createElement('canvas');
const context = copy.getContext('2d', { willReadFrequently: true });
[copy.width, copy.height] = [1, 1];
context.drawImage(canvas, arguments[0], arguments[1], 1, 1, 0, 0, 1, 1);
return context.getImageData(0, 0, 1, 1).data[0]"""


def test_the_window_of_a_picture_can_be_changed_to_every_grey_of_the_volume(panel, volume):
    wait(panel, f"{PAINTED}[3] === 'deep'")
    place = panel.execute_script("return Number(document.getElementById('scroll').value)")
    row, column = 64, 64  # between the lungs
    shown = round(768 * (column + 0.5) / 128), round(768 * (row + 0.5) / 128)
    assert panel.execute_script(GREY, *shown) > 240  # soft tissue is white in the window of the lung
    choose(panel, "#window", "mediastinal")
    around = volume.hu[place, row - 1 : row + 2, column - 1 : column + 2].astype(float)
    lowest, highest = ((edge + 160) * 255 / 400 for edge in (around.min(), around.max()))
    wait(panel, f"return ((...place) => {{ {GREY.replace('arguments', 'place')} }})({shown[0]}, {shown[1]}) < 240")
    assert lowest - 2 <= panel.execute_script(GREY, *shown) <= highest + 2


VIEW = "return document.querySelectorAll('#panel .picture .frame svg')[3].getAttribute('viewBox').split(' ').map(Number)"


def test_a_picture_is_zoomed_and_moved_by_keyboard_mouse_and_buttons(panel):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    whole = panel.execute_script(VIEW)
    frame = panel.find_elements("css selector", "#panel .picture .frame")[3]
    panel.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", frame)
    press(panel, "+", "+")
    near = panel.execute_script(VIEW)
    assert near[2] == pytest.approx(whole[2] / 2.25)
    ActionChains(panel).drag_and_drop_by_offset(frame, -40, 0).perform()
    moved = panel.execute_script(VIEW)
    assert moved[0] > near[0]
    assert moved[1:] == near[1:]
    ActionChains(panel).scroll_from_origin(ScrollOrigin.from_element(frame), 0, -100).perform()
    assert panel.execute_script(VIEW)[2] < near[2]
    press(panel, "0")
    assert panel.execute_script(VIEW) == whole
    click(panel, "#panel button[title='zoom in']")
    assert panel.execute_script(VIEW)[2] < whole[2]


def test_sides_scale_and_read_slices_are_marked(panel, volume):
    frame = "[...document.querySelectorAll('#panel .picture .frame')][3]"
    letters = panel.execute_script(f"return [...{frame}.querySelectorAll('.letter')].map((one) => one.textContent).join('')")
    assert letters == "RLAP"
    scale = panel.execute_script(
        f"return [{frame}.querySelector('.scale').style.width, {frame}.querySelector('.scale').textContent]"
    )
    assert scale[1] == "100 mm"
    assert float(scale[0].rstrip("%")) == pytest.approx(100 * 100 / (128 * 2.8), abs=0.01)
    assert len(panel.find_elements("css selector", "#panel .coronal .read")) == len(volume.hu)
    assert len(panel.find_elements("css selector", "#panel .coronal .read.left-out")) == 1


def test_shares_of_slices_and_details_are_told(panel, run):
    panel.execute_script("document.querySelector('#panel details').open = true")
    slices = open_run(run).slices
    p = slices.loc[slices["study_key"] == top_study(run), network(run)].to_numpy()
    script = "return [...document.querySelectorAll(arguments[0])].map((row) => [...row.cells].map((cell) => cell.textContent))"
    rows = panel.execute_script(script, "#panel details tbody tr")
    assert [float(row[4].rstrip(" %")) for row in rows] == pytest.approx(100 * p / p.sum(), abs=0.06)
    assert [float(row[5]) for row in rows] == pytest.approx((p.sum() - p) / (len(p) - 1), abs=6e-4)
    assert "slice's score without it" in panel.find_element("id", "panel-body").text
    click(panel, "#shade")
    wait(panel, "return document.querySelectorAll('#panel .raises, #panel .lowers').length >= 6")


def test_the_outline_can_be_taken_away(panel):
    assert panel.find_elements("css selector", "#panel polygon.outline")
    click(panel, "#outline")
    assert not panel.find_elements("css selector", "#panel polygon.outline")


def test_a_study_that_was_not_scored_says_so(page):
    type_into(page, "#find", "DECODE_ERROR")
    wait(page, "return shown.length < 90 && document.querySelectorAll('#table tbody tr').length < 25")
    click(page, "td button.key")
    wait(page, "return document.getElementById('panel-body').textContent.includes('No slice of this study was scored')")


def test_an_address_with_a_key_opens_that_study(browser, run):
    key = open_run(run).studies["study_key"].iloc[3]
    browser.get("about:blank")
    browser.get((run / "report" / "index.html").as_uri() + f"#study={key}")
    wait(browser, "return document.getElementById('panel').open")
    assert key in browser.find_element("id", "panel-title").text
    assert browser.get_log("browser") == []


@pytest.fixture(params=[(1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")], ids=lambda one: f"{one[0]} {one[1]}")
def screen(request, browser, run):
    """The report on a screen so wide and so lit, the panel of a study with pictures open."""
    width, scheme = request.param
    device = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get("about:blank")
    browser.get((run / "report" / "index.html").as_uri())
    wait(browser, "return document.querySelectorAll('#table tbody tr').length > 0")
    yield browser, width, scheme
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_on_every_screen_nothing_is_too_wide_and_axe_finds_no_serious_fault(screen):
    browser, width, scheme = screen
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert light == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 20, 20)"}[scheme]
    assert faults(browser, "main") == []
    click(browser, "td button.key")
    wait(browser, "return document.querySelectorAll('#panel .picture').length >= 3")
    assert (
        browser.execute_script(
            "const { scrollWidth, clientWidth } = document.getElementById('panel'); return scrollWidth - clientWidth"
        )
        == 0
    )
    assert faults(browser, "#panel") == []


def test_on_paper_the_table_keeps_its_columns_and_the_top_study_its_pictures(page, run):
    """A4 in black on white: what the browser lays out for print."""
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    try:
        wait(page, "return [...document.querySelectorAll('#printed canvas')].filter((one) => one.dataset.painted).length === 3")
        assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        shown = "(one) => one.offsetWidth > 0"
        assert page.execute_script(f"return [...document.querySelectorAll('#table thead tr:first-child th')].every({shown})")
        assert page.execute_script(f"return [...document.querySelectorAll('#printed .picture')].filter({shown}).length") == 3
        assert not page.execute_script(f"return [...document.querySelectorAll('form, nav, .filter')].some({shown})")
        pdf = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
        sizes = {tuple(round(float(edge)) for edge in box.split()[2:]) for box in re.findall(rb"/MediaBox \[([^\]]*)\]", pdf)}
        assert sizes == {(595, 842), (842, 595)}
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_one_study_has_a_page_of_its_own_by_the_same_code(browser, run, volume, tmp_path):
    key, places = top_study(run), last_records(run)
    pictures = read_pictures(find_pictures(run, {key: places[key].input})[key])
    (raw,) = read_raw([places[key]])
    result = decode(raw).result
    value = study_value(result, [network(run)], pictures, read_deep(run, key, places[key].input))
    (tmp_path / "study.html").write_text(study_page(value))
    browser.get((tmp_path / "study.html").as_uri())
    wait(
        browser, "return [...document.querySelectorAll('canvas')].filter((one) => one.dataset.painted === 'deep').length === 4"
    )
    assert len(browser.find_elements("css selector", ".chart-dot")) == len(volume.hu) - 1
    assert len(browser.find_elements("css selector", ".plain tbody tr")) >= 8
    assert browser.get_log("browser") == []
