"""What the command says of itself: every option explained with its default, completion, quiet; errors hold words only."""

import argparse
import ast
import subprocess
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.cli.completion import script
from pipeline.cli.main import _parser
from pipeline.mpi.terminal import bar_options, be_quiet, for_ranks

HOUSE = Path(__file__).parents[1] / "pipeline"


def commands():
    (found,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return found.choices


OPTIONS = [(name, action) for name, parser in commands().items() for action in parser._actions if action.dest != "help"]


@pytest.mark.parametrize(("command", "action"), OPTIONS, ids=lambda one: one if isinstance(one, str) else one.dest)
def test_every_argument_says_what_it_is_for_and_its_default(command, action):
    assert action.help
    takes_value = bool(action.option_strings) and action.nargs != 0
    if takes_value and not action.required:
        said = commands()[command]._get_formatter()._expand_help(action)
        assert "default" in said
        assert "default: None" not in said


def test_every_command_says_what_it_does():
    (found,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert {choice.dest for choice in found._choices_actions if choice.help} == set(found.choices)


def completed(tmp_path, *words):
    """What bash offers for the last of `words`."""
    (tmp_path / "completion.bash").write_text(script(commands()))
    asked = " ".join(f"'{word}'" for word in words)
    line = (
        f"source {tmp_path}/completion.bash; COMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; _drenet; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["drenet", "st"], ["status"]),
        (["drenet", "screen", "--wei"], ["--weights"]),
        (["drenet", "screen", "/data", "--key"], ["--key-file"]),
        (["drenet", "phantom", "made", "--compress", "jpeg-l"], ["jpeg-lossless", "jpeg-ls"]),
        (["drenet", "train", "--task", "covid"], ["covid-vs-bacterial", "covid-vs-healthy"]),
        (["drenet", "status", "runs/f"], []),
    ],
)
def test_the_shell_completes_commands_options_and_choices_and_leaves_paths_to_itself(words, offered, tmp_path):
    assert completed(tmp_path, *words) == offered


def test_completion_is_printed_by_its_command(capsys):
    assert main(["completion"]) == 0
    assert capsys.readouterr().out == script(commands())


def test_ranks_are_told_of_the_terminal_that_their_starter_sees(monkeypatch):
    monkeypatch.delenv("DRENET_BAR", raising=False)
    monkeypatch.setenv("COLUMNS", "77")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    told = for_ranks()
    assert told == {"DRENET_BAR": "77"}
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert bar_options() == {"disable": True, "ncols": None}
    monkeypatch.setenv("DRENET_BAR", told["DRENET_BAR"])
    assert bar_options() == {"disable": False, "ncols": 77}
    be_quiet()
    assert bar_options()["disable"]
    assert for_ranks() == {}


def test_no_message_is_made_of_a_python_object():
    """A dict or list within a message would be shown as Python writes it."""
    makers = {"dict", "list", "set", "tuple", "sorted", "frozenset", "Counter"}
    shown = []
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            value = node.value if isinstance(node, ast.FormattedValue) else None
            is_made = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in makers
            if is_made or isinstance(value, ast.Dict | ast.List | ast.Set | ast.Tuple | ast.ListComp | ast.DictComp):
                shown.append(f"{path.relative_to(HOUSE)}:{value.lineno}")
    assert shown == []
