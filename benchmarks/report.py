"""The report of a fabricated run: `python -m benchmarks.report [n_studies]` prints seconds, megabytes and the first paint.

The records are invented (random numbers in the shape of real ones): this measures the machinery, nothing clinical. The paint is
that of headless Chromium, where it is installed.
"""

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from pipeline.report import write_report
from tests.browser import chromium
from tests.fabricate_run import fabricated_run

PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
TABLE = "return document.querySelectorAll('#table tbody tr').length"
AGAIN = (
    "const begun = performance.now(); return {}.then(() => {{ document.body.offsetHeight; return performance.now() - begun; }})"
)
SORT, FILTER = AGAIN.format("sortBy(arguments[0], 1)"), AGAIN.format("renew()")


def main() -> None:
    """Fabricate, report, open, tell."""
    n_studies = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        fabricated_run(run, n_studies, n_ranks=64, labels=("covid", "healthy"))
        begun = time.monotonic()
        page = write_report(run)
        spent = time.monotonic() - begun
        size = sum(path.stat().st_size for path in page.parent.rglob("*") if path.is_file() and "images-" not in path.name)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{n_studies:,} studies: report in {spent:.1f} s, {size / 1e6:.1f} MB beside the images, peak {peak:,.0f} MB")
        if shutil.which("chromium"):
            _open(page)


def _open(page: Path) -> None:
    with chromium() as browser:
        begun = time.monotonic()
        browser.get(page.as_uri())
        while not browser.execute_script(TABLE):
            time.sleep(0.02)
        print(f"  first paint {browser.execute_script(PAINT) / 1000:.2f} s, table filled {time.monotonic() - begun:.2f} s")
        for name in (browser.execute_script("return table.networks[0]"), "study_key", "kernel"):
            print(f"  sorted by {name:<24}{browser.execute_script(SORT, name):>6.0f} ms")
        browser.execute_script("document.getElementById('find').value = 'maker b'")
        print(f"  filtered by a word                {browser.execute_script(FILTER):>6.0f} ms")


if __name__ == "__main__":
    main()
