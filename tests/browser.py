"""A headless Chromium that may open files, and what this machine serves; needs the packages chromium and chromium-driver."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
NO_NETWORK = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-background-networking", "--no-first-run")


@contextmanager
def chromium(width=1280, height=1000):
    """A selenium driver; what the console said is in `driver.get_log("browser")`."""
    binary, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not service:
        pytest.fail("the browser tests need Chromium: apt-get install chromium chromium-driver")
    from selenium import webdriver

    os.environ |= {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, *NO_NETWORK, f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    try:
        yield driver
    finally:
        driver.quit()


def faults(browser, where):
    """What axe finds serious, as (rule, first element)."""
    import axe_core_python

    browser.execute_script((Path(axe_core_python.__file__).parent / "axe.min.js").read_text())
    browser.set_script_timeout(120)
    found = browser.execute_async_script("axe.run(arguments[0]).then(arguments[1])", where)
    serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    return [(one["id"], one["nodes"][0]["html"]) for one in serious]
