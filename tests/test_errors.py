"""docs/reasons.md: every code has its cure, and every code that is raised exists."""

import re
from pathlib import Path

from pipeline.errors import TRANSIENT, Reason

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"^\| ([A-Z_0-9]+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "reasons.md").read_text(), re.MULTILINE)


def test_every_reason_code_stands_once_in_the_table_with_what_to_do_about_it():
    assert sorted(code for code, _, _ in ROWS) == sorted(Reason)
    assert all(meaning.strip() and cure.strip() for _, meaning, cure in ROWS)


def test_every_code_that_the_source_names_exists():
    named = {
        code
        for path in (ROOT / "pipeline").rglob("*.py")
        for code in re.findall(r"\bReason\.([A-Z_]+)\b", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 30
    assert named <= {reason.name for reason in Reason}


def test_the_table_says_which_reasons_are_transient():
    assert {code for code, meaning, _ in ROWS if "(transient)" in meaning} == set(TRANSIENT)


def test_a_code_is_its_own_name_so_that_tables_stay_stable():
    assert all(reason.name == reason.value for reason in Reason)
