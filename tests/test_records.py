"""Records are frozen, and light: they are loaded before MPI, and numpy must not be."""

import inspect
import subprocess
import sys
from dataclasses import fields, is_dataclass

import msgspec

from pipeline import records
from tests.tools import environment

RECORDS = [one for _, one in inspect.getmembers(records, is_dataclass)]
STRUCTS = [one for _, one in inspect.getmembers(records, inspect.isclass) if issubclass(one, msgspec.Struct)]


def test_no_record_can_be_changed_or_given_a_field_that_it_does_not_have():
    assert len(RECORDS) > 10
    assert [one.__name__ for one in RECORDS if not one.__dataclass_params__.frozen or "__slots__" not in vars(one)] == []
    assert len(STRUCTS) == 2
    assert [one.__name__ for one in STRUCTS if not one.__struct_config__.frozen] == []


def test_every_record_says_what_it_is():
    assert [one.__name__ for one in RECORDS + STRUCTS if not one.__doc__ or one.__doc__.startswith(f"{one.__name__}(")] == []
    assert all(fields(one) for one in RECORDS)


def test_records_load_no_numpy():
    command = [sys.executable, "-c", "import pipeline.records, sys; sys.exit('numpy' in sys.modules)"]
    assert subprocess.run(command, env=environment(), check=False).returncode == 0
