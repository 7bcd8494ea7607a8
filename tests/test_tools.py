"""Tests find their programs without a PATH, a skip says what would bring the test, every test has a command that runs it."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import tool

HERE = Path(__file__).parent
ROOT = HERE.parent
SHELL = {"bash", "mount", "umount"}  # what any Linux has
# marked slurm or browser: not of `make test`
OF_THE_SYSTEM = {"slurm_bed.py", "test_submission_slurm.py", "test_report_dicom.py", "test_server_orthanc.py"}


@pytest.mark.parametrize("name", ["mpiexec", "shellcheck", "ruff", "mypy"])
def test_programs_of_wheels_start_without_a_path(name):
    done = subprocess.run([tool(name), "--version"], env=os.environ | {"PATH": "/nowhere"}, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_program_that_is_missing_is_named_with_its_cure():
    with pytest.raises(FileNotFoundError, match="absent: `make test-env` brings it"):
        tool("absent")


def _started(tree):
    """Names of programs with which the argument lists of a module begin, where they are written out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {"run", "Popen", "check_output"} and node.args:
            first = node.args[0].elts[0] if isinstance(node.args[0], ast.List) else None
            if isinstance(first, ast.Constant):
                yield first.value


def test_no_test_starts_a_program_that_only_some_machines_have():
    files = [path for path in HERE.glob("*.py") if path.name not in OF_THE_SYSTEM]
    assert {name for path in files for name in _started(ast.parse(path.read_text()))} <= SHELL


@pytest.fixture
def verdict(tmp_path):
    """Exit code and output of pytest, with the hooks of these tests, over one test with this first line."""

    def run(line, ci="", allowed=""):
        shutil.copy(HERE / "conftest.py", tmp_path)
        (tmp_path / "allowed_skips.txt").write_text(allowed)
        (tmp_path / "test_one.py").write_text(f"import pytest\ndef test_it():\n    {line}\n")
        command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", str(tmp_path)]
        environment = os.environ | {"CI": ci, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout

    return run


@pytest.mark.parametrize(
    "cure", ["`make test-env` brings it", "DRENET_TEST_DATA=FOLDER", "pip install openvino", "apt-get install chromium"]
)
def test_a_skip_that_names_its_cure_passes(cure, verdict):
    assert verdict(f"pytest.skip('not here: {cure}')")[0] == 0


@pytest.mark.parametrize("line", ["pytest.skip('not here')", "pytest.importorskip('absent_library')"])
def test_a_skip_without_a_cure_is_a_failure_everywhere(line, verdict):
    code, said = verdict(line)
    assert (code, "without a word on what would bring it:\n  test_one.py::test_it" in said) == (1, True), said


def test_in_ci_a_skip_that_the_list_lacks_is_a_failure(verdict):
    line = "pytest.skip('not here: pip install it')"
    code, said = verdict(line, ci="true")
    assert (code, "not in tests/allowed_skips.txt:\n  test_one.py::test_it" in said) == (1, True), said
    assert verdict(line, ci="true", allowed="test_one.py::test_it  # nobody has it")[0] == 0


def test_what_make_test_leaves_out_another_command_runs():
    asked = dict(re.findall(r"^(test[a-z-]*):.*\n.* -m (?:\"(.*)\"|\w+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    left_out = set(re.findall(r"not (\w+)", asked.pop("test")))
    marks = set(re.findall(r"^    (\w+): .*run by `make (test-[a-z]+)`", (ROOT / "setup.cfg").read_text(), re.MULTILINE))
    assert {mark for mark, _ in marks} == left_out
    assert {command for _, command in marks} <= set(asked)
    assert ".ci/bare make test\n.ci/bare make test-long\n" in (ROOT / ".ci" / "run").read_text()
