"""The docs as a site: it builds without a network, whatever is doubtful in it fails, and no page fetches anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline import submission

ROOT = Path(__file__).parents[1]
OFFLINE = {f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https", "ftp", "all")}
FETCHED = re.compile(r"""(?:\bsrc|srcset|data|poster)\s*=\s*["']?(?:https?:)?//|url\(\s*["']?(?:https?:)?//|@import|<link[^>]+href\s*=\s*["']?(?:https?:)?//|\bimport\(|\bfetch\(|\.open\("GET", *"http""", re.IGNORECASE)  # fmt: skip  # noqa: E501


def built(folder, to):
    """Exit code and warnings of a build of the site at `folder`, with nothing to be reached."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(to)]
    done = subprocess.run(command, cwd=folder, env=os.environ | OFFLINE, capture_output=True, text=True, timeout=300)
    return done.returncode, [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("INFO")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    assert built(ROOT, folder) == (0, [])
    return folder


def test_the_pages_fetch_nothing_from_elsewhere(site):
    pages = [path for path in site.rglob("*") if path.suffix in {".html", ".css", ".js"}]
    assert len(pages) > 30
    found = {path.name: FETCHED.findall(path.read_text()) for path in pages}
    assert {name: hits for name, hits in found.items() if hits} == {}


@pytest.mark.parametrize(
    "line",
    [
        '<script src="https://elsewhere.example/a.js">',
        "<link rel=stylesheet href=//elsewhere.example/a.css>",
        "@font-face { src: url(https://elsewhere.example/a.woff2) }",
        '@import "a.css"',
    ],
)
def test_what_would_be_fetched_from_elsewhere_is_seen(line):
    assert FETCHED.search(line)


def test_the_reference_has_every_public_name_with_its_words(site):
    page = (site / "api.html").read_text()
    names = {f"pipeline.{name}" for name in pipeline.__all__ if name != "__version__"}
    names |= {f"pipeline.submission.{name}" for name in submission.__all__}
    headings = {heading.strip() for heading in re.findall(r"<h3[^>]*>([^<]*)<", page)}
    assert names - headings == set()
    assert "Screen <code>archive</code> with the networks" in page


def test_a_link_to_a_file_of_the_repository_leads_to_its_copy(site):
    page = (site / "cluster.html").read_text()
    assert 'href="from-the-top/configs/cluster.toml"' in page
    assert (site / "from-the-top" / "configs" / "cluster.toml").read_bytes() == (ROOT / "configs" / "cluster.toml").read_bytes()


@pytest.fixture
def small(tmp_path):
    """A site of two pages, made by the same settings and the same hook."""
    settings = (ROOT / "mkdocs.yml").read_text().partition("nav:\n")[0].split("validation:")
    nav = "nav:\n  - index.md\n  - from-the-top/README.md\n  - from-the-top/CONTRIBUTING.md\n  - from-the-top/CHANGELOG.md\n"
    (tmp_path / "mkdocs.yml").write_text("validation:".join(settings) + nav)
    (tmp_path / "docs").mkdir()
    for name in ("site_hook.py", "site.css"):
        (tmp_path / "docs" / name).write_bytes((ROOT / "docs" / name).read_bytes())
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/index.md"):
        (tmp_path / name).write_text("# A page\n\n## A part\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.toml").write_text("")
    return tmp_path


def test_sound_links_of_every_kind_pass(small):
    links = "[a](../README.md) [b](../README.md#a-part) [c](../configs/a.toml) [d](#a-part) [e](https://elsewhere.example/)"
    (small / "docs" / "index.md").write_text(f"# A page\n\n## A part\n\n{links}\n")
    assert built(small, small / "site") == (0, [])


def test_dead_links_and_a_page_without_a_place_in_the_menu_fail_the_build_and_are_named(small):
    faults = {
        "docs/index.md": "[a](gone.md) [b](../configs/gone.toml) [c](../README.md#no-such-part) ![d](gone.png)",
        "README.md": "[e](docs/gone-too.md)",
        "docs/beside.md": "# A page that no menu names",
    }
    for page, text in faults.items():
        with (small / page).open("a") as file:
            file.write(f"\n{text}\n")
    code, said = built(small, small / "site")
    assert code == 1
    named = ("gone.md", "../configs/gone.toml", "#no-such-part", "gone.png", "docs/gone-too.md", "beside.md")
    assert [name for name in named if not any(name in line for line in said)] == []


def test_a_name_that_the_reference_cannot_find_fails_the_build(small):
    (small / "docs" / "index.md").write_text("# A page\n\n::: pipeline.gone\n")
    assert built(small, small / "site")[0] == 1
