"""The house holds: imports point downwards, and --help needs no heavy library."""

import ast
import subprocess
import sys
from pathlib import Path

import pipeline

ROWS = {
    0: ["records", "errors"],
    1: ["config", "pseudonym", "conversation", "kinds", "stall"],
    2: [
        "fill",
        "lung",
        "model",
        "store",
        "mail",
        "ranks",
        "phantom",
        "progress",
        "guard",
        "leftovers",
        "pace",
        "columns",
        "rows",
        "sink",
        "site",
    ],
    3: [
        "archive",
        "manifest",
        "deal",
        "preprocess",
        "infer",
        "aggregate",
        "gather",
        "tables",
        "launch",
        "front",
        "agreement",
        "catalogue",
        "holder",
    ],
    4: ["beforehand", "legs", "contactsheet", "album", "indexing", "source", "status", "estimate"],
    5: ["study", "resume", "report"],
    6: ["run", "looks"],
    7: ["submission", "doctor", "training"],
    9: ["cli", "__main__"],
}
SIDEWAYS = {
    ("catalogue", "archive"),
    ("__main__", "cli"),
    ("errors", "records"),
    ("pseudonym", "config"),
    ("model", "store"),
    ("ranks", "mail"),
    ("rows", "store"),
    ("phantom", "store"),
}


def test_imports_point_downwards_only():
    row_of = {room: row for row, rooms in ROWS.items() for room in rooms}
    wrong = []
    folder = Path(pipeline.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        room = path.relative_to(folder).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline.") and room != "__init__":
                other = node.module.split(".")[1]
                if other != room and row_of[other] >= row_of[room] and (room, other) not in SIDEWAYS:
                    wrong.append(f"{path.name} imports {other}")
    assert wrong == []


def test_help_imports_no_heavy_library():
    code = (
        "import sys; from pipeline.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'mpi4py', 'cv2', 'pydicom') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
