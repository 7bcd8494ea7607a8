"""The house holds: imports point downwards, globs over source files match, and --help needs no heavy library."""

import ast
import configparser
import importlib
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pipeline
from pipeline.cohort.cache import PREPARING
from pipeline.run.index import BUILDING
from pipeline.study.shipped import shipped_weights
from tests.tools import environment, program

ROOT = Path(__file__).parents[1]
HOUSE = Path(pipeline.__file__).parent
LAYERS = (  # lowest first; rooms of one layer know nothing of each other
    {"records"},
    {"errors"},
    {"config", "files", "pseudonym"},
    {"mpi"},
    {"archive", "phantom"},
    {"study"},
    {"run"},
    {"report"},
    {"screening"},
    {"cohort"},
    {"evaluation"},
    {"server", "submission", "training"},
    {"cli"},
    {"__main__"},
)


def _modules():
    """{name below `pipeline`: its file}; a package by its own name."""
    names = {path: ".".join(path.relative_to(HOUSE).with_suffix("").parts) for path in sorted(HOUSE.rglob("*.py"))}
    return {name.removesuffix(".__init__"): path for path, name in names.items() if name != "__init__"}


MODULES = _modules()


def _imported(path):
    """The modules of the house that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pipeline":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                name = full if full.removeprefix("pipeline.") in MODULES else node.module
                yield name.removeprefix("pipeline").removeprefix(".")


ARROWS = sorted({(name, other) for name, path in MODULES.items() for other in _imported(path) if other})


def test_every_room_has_a_layer():
    assert sorted(name for layer in LAYERS for name in layer) == sorted({name.split(".")[0] for name in MODULES})


def test_no_two_classes_of_the_house_share_a_name():
    rooms = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                rooms.setdefault(node.name, []).append(name)
    assert {name: where for name, where in rooms.items() if len(where) > 1} == {}


def test_every_file_of_tests_is_named_after_a_room_and_every_room_has_one():
    rooms = {room for layer in LAYERS for room in layer} | {"architecture", "tools", "docs", "benchmarks"}
    named = {path.stem.removeprefix("test_").split("_")[0]: path.name for path in Path(__file__).parent.glob("test_*.py")}
    assert {room: name for room, name in named.items() if room not in rooms} == {}
    assert {room for layer in LAYERS for room in layer} - named.keys() == {"__main__"}


def _of_tests():
    """(file, every node of its syntax) of all tests."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        yield from ((path.name, node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_the_name_of_every_test_has_at_most_90_characters():
    names = {node.name for _, node in _of_tests() if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    assert names
    assert [name for name in names if len(name) > 90] == []


def _is_program(text):
    """Whether a text of several lines is Python that imports something."""
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return False
    return "\n" in text.strip() and any(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


def test_no_program_stands_in_a_string_of_a_test():
    texts = [(name, node.value) for name, node in _of_tests() if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert [(name, text[:60]) for name, text in texts if _is_program(text)] == []
    assert _is_program("\n".join(["import sys", "print(sys.path)"]))


def test_imports_point_downwards_only():
    layer_of = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    rooms = {(name, other): (name.split(".")[0], other.split(".")[0]) for name, other in ARROWS}
    wrong = {arrow for arrow, (room, other) in rooms.items() if room != other and layer_of[other] >= layer_of[room]}
    assert wrong == set()


def test_no_modules_import_each_other_in_a_circle():
    below = {name: {other for room, other in ARROWS if room == name} for name in MODULES}
    TopologicalSorter(below).prepare()  # raises CycleError


@pytest.mark.parametrize("room", ["study", "run", "mpi"])
def test_a_room_whose_modules_load_early_imports_nothing_by_itself(room):
    assert [type(node) for node in ast.parse(MODULES[room].read_text()).body] == [ast.Expr]


def test_no_module_hides_a_public_name():
    assert not {"screen", "screen_few", "screen_one", "open_run"} & set(MODULES)
    assert callable(pipeline.open_run)
    assert callable(pipeline.screen)


def _constants(path):
    """(name, whether a sentence says what it is) of every constant of a module; names that share a line have none."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else []
        names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
        yield from ((name, said and len(names) == 1) for name in names if name.isupper())


def test_every_constant_of_the_lung_mask_stands_alone_and_says_its_unit_and_why():
    found = [(path.stem, *one) for path in sorted((HOUSE / "study" / "lungs").glob("*.py")) for one in _constants(path)]
    assert len(found) > 90
    assert [f"{room}.{name}" for room, name, said in found if not said] == []


def _changes():
    """(change, the files of the package that it needs) as CONTRIBUTING.md has them, without what may come on top."""
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| change | files |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        _, change, files, _ = line.split("|")
        yield change.strip(), re.findall(r"`([\w/]+\.(?:py|html\.j2))`|the module that", files.partition(";")[0])


def test_no_change_that_contributing_tells_of_needs_many_files_and_they_are_all_there():
    changes = dict(_changes())
    most = dict.fromkeys(changes, 4) | {"an input format": 5, "a scheduler": 5}
    assert len(most) == 13
    assert {change: files for change, files in changes.items() if not 0 < len(files) <= most[change]} == {}
    named = {file for files in changes.values() for file in files}
    assert [file for file in named if not (HOUSE / file).exists()] == []


def test_every_glob_over_source_files_matches_something():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    shipped = setup["options.package_data"]["pipeline"].split(", ")
    assert [glob for glob in (*BUILDING, *PREPARING, *shipped) if not any(HOUSE.glob(glob))] == []
    assert len(shipped_weights()) == 2


def test_the_code_that_prepares_slices_is_all_that_cached_slices_are_named_after():
    named = {path.relative_to(HOUSE).parts[0:2] for glob in PREPARING for path in HOUSE.glob(glob)}
    study = {name for room, name in named if room == "study"}
    assert study == {"compiled.py", "fill.py", "lungs", "screener.py", "slices.py", "within.py"}
    assert {room for room, _ in named} == {"archive", "study", "weights"}
    assert {name for room, name in named if room == "weights"} == {"lungs"}


def test_the_code_that_builds_studies_is_all_that_an_earlier_manifest_is_believed_by():
    named = {path for glob in BUILDING for path in HOUSE.glob(glob)}
    todo = [name for name in MODULES if name.startswith("archive")]
    met = set()
    while todo:
        met.add(name := todo.pop())
        todo += [other for of, other in ARROWS if of == name and other not in met]
    assert {name for name in met if MODULES[name] not in named} == {"mpi.stall"}
    assert {name for name, path in MODULES.items() if path in named} - met == {
        "run.index", "run.scan_cache", "run.scan_lines", "study.slices",
    }  # fmt: skip


def test_every_module_that_mypy_treats_apart_exists():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    ours = [name.removeprefix("mypy-pipeline.") for name in setup.sections() if name.startswith("mypy-pipeline.")]
    assert ours
    assert set(ours) <= set(MODULES)


@pytest.mark.parametrize("folder", ["benchmarks", "tests"])
def test_every_name_that_a_program_beside_the_package_imports_from_it_exists(folder):
    wrong = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pipeline":
                module = importlib.import_module(node.module)
                names = [
                    alias.name for alias in node.names if f"{node.module}.{alias.name}".removeprefix("pipeline.") not in MODULES
                ]
                wrong += [f"{path.name}: {node.module}.{name}" for name in names if not hasattr(module, name)]
    assert wrong == []


def test_help_imports_no_heavy_library():
    command = [*program("help_lightly"), "torch", "mpi4py", "cv2", "pydicom"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
