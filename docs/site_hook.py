"""MkDocs' hook: the pages link as they do on disk, from file to file of the repository, and the site follows these links.

Pages of the repository's top become pages below `from-the-top/`; whatever else a page links to is copied to the same place.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = "from-the-top"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")  # no address of the web, no anchor of the same page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the top that the site shows or links to, besides what lies in docs/."""
    docs = Path(config.docs_dir)
    linked = {path for page in [*docs.rglob("*.md"), *(docs.parent / name for name in PAGES)] for path in _linked(page)}
    outside = {path for path in linked if path.is_file() and not path.is_relative_to(docs)}
    for path in sorted(outside | {docs.parent / name for name in PAGES}):
        place = f"{TOP}/{path.relative_to(docs.parent)}"
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """The page's links, from where it lies on disk, as links of the site; one that leads nowhere stays, and fails the build."""
    docs = Path(config.docs_dir)
    source = Path(page.file.abs_src_path or "")

    def followed(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / match[2]))
        if not target.exists():
            return match[0]
        target = target / "README.md" if target.is_dir() else target
        place = target.relative_to(docs) if target.is_relative_to(docs) else Path(TOP) / target.relative_to(docs.parent)
        return match[1] + os.path.relpath(place, Path(page.file.src_uri).parent) + match[3]

    return LINK.sub(followed, markdown)


def _linked(page: Path) -> set[Path]:
    """What a page's links lead to, on disk."""
    return {Path(os.path.normpath(page.parent / match[2])) for match in LINK.finditer(page.read_text(encoding="utf-8"))}
