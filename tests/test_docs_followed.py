"""What README, docs/cluster.md, docs/server.md and docs/pictures.md tell a reader to type is known, exists and works."""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import _parser
from tests.follow_docs import FENCE, PAGES, ROOT, STEPS, script, told
from tests.tools import copy_of_the_repository

OURS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_run_or_shortened_with_its_reason(page):
    """A command that is new, changed or gone is to be changed in tests/follow_docs.py too."""
    assert [step.command for step in STEPS[page]] == [command for command, _ in told(page)]
    assert [step.command for step in STEPS[page] if step.instead is not None and not step.why] == []
    assert [step.command for step in STEPS[page] if step.instead is None and "```" in step.command] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_block_of_a_page_hides_from_being_followed(page):
    """What is indented or fenced without a language would be shown as code, and looked at by nobody."""
    text = FENCE.sub("", (ROOT / page).read_text())
    assert "```" not in text
    assert re.findall(r"(?:^|\n)\n {4,}(?:\S.*)", text) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_s_script_is_sound_bash(page):
    done = subprocess.run(["bash", "-n"], input=script(page), text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def said(text):
    """Every command line of ours that a page shows, in a block or within a sentence."""
    text = text.replace("\\\n", " ")
    return re.findall(r"(?:^ *|`|\(|exec )(drenet [a-z]+[^`\n)]*|make [a-z-]+[^`\n]*)", text, re.MULTILINE)


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists_with_its_options(path):
    (known,) = [action.choices for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for line in said(path.read_text()):
        program, name, *words = re.sub(r"\s#\s.*", "", line).split()
        if program == "make":
            wrong += [line] * (name not in targets)
            continue
        options = {option for action in known[name]._actions for option in action.option_strings} if name in known else None
        asked = {word.strip("`[]().,;").partition("=")[0] for word in words if word.lstrip("[(").startswith("--")}
        if options is None or asked - options:
            wrong.append(line)
    assert wrong == []


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """Four nodes of a Slurm."""
    sys.path.insert(0, str(Path(__file__).parent))  # where the bed lies
    import slurm_bed

    missing = slurm_bed.missing()
    assert not missing, f"wanted: {', '.join(missing)} (Debian: see .ci/slurm-packages)"
    with slurm_bed.Bed(tmp_path_factory.mktemp("bed")) as bed:
        yield bed


@pytest.fixture(scope="module")
def checkouts(tmp_path_factory):
    """A fresh copy of what is tracked, one for the walk on a cluster and one for the other pages."""
    made = {}

    def checkout(page):
        name = "cluster" if page == "docs/cluster.md" else "all"
        if name not in made:
            made[name] = copy_of_the_repository(tmp_path_factory.mktemp(name) / "drenet-pipeline")
        return made[name]

    yield checkout
    for folder in made.values():
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_followed_word_by_word_in_a_fresh_environment(page, bed, checkouts, tmp_path):
    checkout = checkouts(page)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "LC_", "LANG"))}
    home = checkout.parent / "home"
    home.mkdir(exist_ok=True)
    own = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "port": str(port)}
    environment = kept | own | {"SLURM_CONF": bed.environment["SLURM_CONF"], "OMP_NUM_THREADS": "1"}
    written, said = tmp_path / "follow.sh", tmp_path / "said.log"
    written.write_text(script(page))
    with said.open("w") as log:
        done = subprocess.run(["bash", str(written)], cwd=checkout, env=environment, stdout=log, stderr=log, timeout=7000)
    assert done.returncode == 0, said.read_text()[-6000:]
