"""What the pages tell a reader to type, and how it is followed: as it stands, or shortened with the reason.

Every command and every Python example of `PAGES` stands in `STEPS`, in the page's order. `make follow-docs` runs them in a
fresh checkout with an environment of its own, on a Slurm brought up for it; `tests/test_docs_followed.py` holds page and table
together.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/server.md", "docs/pictures.md", "docs/cluster.md")
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"<< '(\w+)'$")


@dataclass(frozen=True)
class Step:
    """A command of a page, whole lines of bash without their comments, or a Python example ("python: " and its first line).

    `instead` is run in its place and `why` says the reason; `then` lays out what later commands find, which a reader has.
    """

    command: str
    instead: str | None = None
    why: str = ""
    then: str = ""


def swapped(command, why, *swaps):
    """A step that is run with each (old, new) of `swaps` in place; ("", new) comes at its end."""
    instead = command
    for old, new in swaps:
        assert old in command
        instead = instead.replace(old, new) if old else f"{instead} {new}"
    return Step(command, instead, why)


def blocks(text):
    """(language, text) of every fenced block, without the indentation of a list."""
    for indent, language, body in FENCE.findall(text):
        yield language, "\n".join(line.removeprefix(indent) for line in body.splitlines())


def commands(block):
    """The commands of a block of bash: a line each, those that go on with a backslash or a here-document as one."""
    lines, found = iter(block.splitlines()), []
    for line in lines:
        whole = line
        while whole.endswith("\\"):
            whole += "\n" + next(lines)
        if heredoc := HEREDOC.search(whole):
            for inner in lines:
                whole += "\n" + inner
                if inner == heredoc[1]:
                    break
        else:
            whole = re.sub(r"\s+#\s.*$", "", whole)
        if whole.strip() and not whole.startswith("#"):
            found.append(whole)
    return found


def told(page):
    """What a page tells its reader to type: {command: what to run}, in its order; files of other kinds by their first line."""
    found = []
    for language, block in blocks((ROOT / page).read_text()):
        if language == "bash":
            found += [(command, command) for command in commands(block)]
        elif language == "python":
            found.append((f"python: {block.splitlines()[0]}", f"python - << 'END_OF_EXAMPLE'\n{block}\nEND_OF_EXAMPLE"))
        else:
            found.append((f"{language}: {block.splitlines()[0]}", ""))
    return found


TINY = """cat > tiny.toml << 'END'
width = 0.0625
shares = [0.6, 0.2, 0.2]
micro_batch = 2
micro_batches = 2
slices_per_epoch = 8
trunk_epochs = 1
epochs = 1
END"""

README_HAS = f"""{TINY}
cp pipeline/weights/covid-vs-bacterial.safetensors covid.ckpt
drenet phantom data/archive --cohort 5,5,0 --matrix 128 --slices 24
cp data/archive-truth/labels.csv labels.csv
python - << 'END'
import shutil, zipfile
from pathlib import Path
folder = sorted(path for path in Path("data/archive").iterdir() if path.is_dir())[0]
with zipfile.ZipFile("data/archive/ct.zip", "w") as packed:
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file()), 1):
        packed.write(path, f"{{number:04}}.dcm")
shutil.rmtree(folder)
END"""

FIND = """read -r study slice <<< "$(python -c '
import pipeline
row = pipeline.open_run("runs/first").slices.iloc[0]
print(row.study_key, f"{row.series_key}/{row.slice_index}")')"
drenet find runs/first "$study" "$slice" 'data/archive/ct.zip!/0001.dcm'"""

SMALL_CLUSTER = """sed -i -e 's/^nodes = 4 /nodes = 2 /' -e 's/^ranks_per_node = 24 /ranks_per_node = 2 /' \\
  -e 's/^walltime_min = 60 /walltime_min = 10 /' configs/cluster.toml"""

SERVER_HAS = """cp pipeline/weights/covid-vs-bacterial.safetensors covid.ckpt
drenet phantom sent --studies 1 --matrix 128 --slices 24
python -c 'import shutil; shutil.make_archive("study", "zip", "sent")'"""

PICTURES_HAS = f"""{TINY}
sed -i 's/^micro_batches = 2/micro_batches = 1/' tiny.toml
cp pipeline/weights/covid-vs-healthy.safetensors covid.ckpt
python - << 'END'
import csv
from pathlib import Path
import cv2
import numpy as np
from pipeline.phantom import CohortPlan
from pipeline.phantom.cohort import chest_of
plan, rows = CohortPlan((0, 0, 0), seed=21, matrix=128, slices=24), []
Path("heap").mkdir()
for number in range(10):
    label = ("covid", "healthy")[number % 2]
    hu = chest_of(plan, number, label).hu
    for place in (10, 12, 14):
        name = f"heap/{{number}}-{{place}}.png"
        cv2.imwrite(name, np.clip(np.rint((hu[place] + 1000.0) * 255 / 765), 0, 255).astype(np.uint8))
        rows.append((name, number, label))
with open("pictures.csv", "w", newline="") as file:
    csv.writer(file).writerows([("file", "patient", "label"), *rows])
END"""

DATA = ("/data/archive", "data/archive")


def place(run):
    """What the placeholders of docs/cluster.md are swapped for."""
    return ("ARCHIVE", "archive"), ("--out RUN", f"--out runs/{run}")


def done(run):
    """The end of a command that queues: wait until its jobs have left the queue and look that all six studies are there."""
    return "", f'\nwhile [ -n "$(squeue -h)" ]; do sleep 1; done\ntest "$(wc -l < runs/{run}/studies.csv)" -eq 7'


CLUSTER_HAS = (
    done("first")[1]
    + """
test -f runs/first/report/index.html
cp network.safetensors covid.ckpt
sed -i -e 's/--nodes=[0-9]*/--nodes=1/' -e 's/--ntasks-per-node=[0-9]*/--ntasks-per-node=2/' -e 's/--time=60/--time=10/' \\
  slurm/screen.sbatch slurm/array.sbatch
drenet index archive --out runs/indexed"""
)

PORT = "the port may be taken on this machine"
SERVED = "it runs until it is stopped: here beside the next commands, on a free port"
HOURS = "the paper's recipe at full width takes days without a GPU"
SMALL = "a smaller cohort and recipe: minutes become seconds"
PLACE = "a placeholder of the page"
UNITS = "root of this machine's services, or a builder of containers, is wanted"

STEPS = {
    "README.md": [
        Step("make demo"),
        Step("make test", "make test-env\n.venv/bin/python -m pytest -q tests/test_errors.py", "minutes: one file of them"),
        Step("source .venv/bin/activate", then=README_HAS),
        Step("drenet doctor --archive /data/archive --weights covid.ckpt --out runs/first"),
        swapped("drenet screen /data/archive --weights covid.ckpt --out runs/first --ranks 8", "two cores", ("8", "2"), DATA),
        Step("drenet status runs/first"),
        Step("drenet find runs/first STUDY_KEY SERIES_KEY/SLICE_INDEX '/data/archive/ct.zip!/0001.dcm'", FIND, PLACE),
        Step("python: import pipeline"),
        swapped(
            "drenet phantom cohort --cohort 20,20,0 --matrix 192 --slices 24 --seed 4040 --ranks 2",
            SMALL,
            ("20,20,0", "5,5,0"),
            ("192", "128"),
        ),
        swapped(
            "drenet train /data/archive --labels labels.csv --task covid-vs-bacterial --out trained",
            HOURS,
            ("", "--recipe tiny.toml"),
            DATA,
        ),
        swapped(
            "drenet train cohort --labels cohort-truth/labels.csv --task covid-vs-bacterial --recipe configs/train-small.toml "
            "--ranks 2 --out small",
            SMALL,
            ("configs/train-small.toml", "tiny.toml"),
        ),
        Step("drenet evaluate small --labels cohort-truth/labels.csv"),
        Step("drenet evaluate runs/first --labels labels.csv"),
        Step("drenet report runs/first", then=SMALL_CLUSTER),
        Step("python: from pipeline.submission import submit"),
    ],
    "docs/server.md": [
        Step("pip install -c constraints.txt -e '.[serve]'", then=SERVER_HAS),
        Step(
            "drenet serve --weights covid.ckpt --spool /var/lib/drenet",
            "drenet serve --weights covid.ckpt --spool spool --port $port > served.log 2>&1 &\nanswers",
            SERVED,
        ),
        Step(
            "curl -si -F files=@study.zip http://127.0.0.1:8080/v1/studies",
            "ID=$(curl -sfi -F files=@study.zip http://127.0.0.1:$port/v1/studies | tr -d '\\r' | "
            "sed -n 's|^[Ll]ocation: /v1/studies/||p')\n[ -n \"$ID\" ]",
            PORT,
        ),
        Step("curl -s http://127.0.0.1:8080/v1/studies/ID", "curl -sf http://127.0.0.1:$port/v1/studies/$ID", PLACE),
        Step(
            "curl -sN http://127.0.0.1:8080/v1/studies/ID/events",
            "curl -sfN http://127.0.0.1:$port/v1/studies/$ID/events\n"
            "curl -sf http://127.0.0.1:$port/v1/studies/$ID | tr -d ' ' | grep -F '\"state\":\"done\"'",
            PLACE,
        ),
        Step(
            "curl -sL http://127.0.0.1:8080/v1/studies/ID/panel",
            "curl -sfL http://127.0.0.1:$port/v1/studies/$ID/panel | grep -i '</html>'",
            PLACE,
        ),
        Step(
            "curl -sO http://127.0.0.1:8080/v1/studies/ID/files/studies.csv",
            "curl -sfO http://127.0.0.1:$port/v1/studies/$ID/files/studies.csv\ngrep covid_vs_bacterial studies.csv",
            PLACE,
        ),
        Step(
            "curl -s -X DELETE http://127.0.0.1:8080/v1/studies/ID",
            "curl -sf -X DELETE http://127.0.0.1:$port/v1/studies/$ID",
            PLACE,
        ),
        Step(
            'curl -si -X POST -H "Upload-Length: $(stat -c %s study.zip)" http://127.0.0.1:8080/v1/uploads',
            'ID=$(curl -sfi -X POST -H "Upload-Length: $(stat -c %s study.zip)" http://127.0.0.1:$port/v1/uploads | '
            "tr -d '\\r' | sed -n 's|^[Ll]ocation: /v1/uploads/||p')\n[ -n \"$ID\" ]",
            PORT,
        ),
        Step(
            "curl -sI http://127.0.0.1:8080/v1/uploads/ID",
            "N=$(curl -sfI http://127.0.0.1:$port/v1/uploads/$ID | tr -d '\\r' | sed -n 's|^[Uu]pload-[Oo]ffset: ||p')\n"
            "[ $N = 0 ]",
            PLACE,
        ),
        swapped(
            'tail -c +$((N + 1)) study.zip | curl -si -X PATCH -H "Upload-Offset: $N" -H '
            '"Content-Type: application/offset+octet-stream" --data-binary @- http://127.0.0.1:8080/v1/uploads/ID',
            PLACE,
            ("-si", "-sfi"),
            ("8080/v1/uploads/ID", "$port/v1/uploads/$ID"),
        ),
        Step("ini: # /etc/systemd/system/drenet.service", ":", UNITS),
        Step("dockerfile: FROM python:3.11-slim", ":", UNITS),
        Step("(umask 077; openssl rand -hex 32 > token)"),
        Step(
            "drenet serve --weights covid.ckpt --spool /var/lib/drenet --host 0.0.0.0 --token-file token",
            "kill $!\nwait $! || [ $? -eq 75 ]\n"
            "drenet serve --weights covid.ckpt --spool spool --port $port --token-file token > served.log 2>&1 &\n"
            "answers",
            SERVED,
        ),
        Step(
            'curl -s -H "Authorization: Bearer $(cat token)" -F files=@study.zip http://127.0.0.1:8080/v1/studies',
            'curl -sf -H "Authorization: Bearer $(cat token)" -F files=@study.zip http://127.0.0.1:$port/v1/studies\n'
            "kill $!\nwait $! || [ $? -eq 75 ]",
            PORT,
        ),
        Step(
            "python -m benchmarks.serve WEIGHTS STUDY.zip --small SMALL.zip --uploads 50 --kills 20",
            "python -m benchmarks.serve covid.ckpt study.zip --small study.zip --uploads 2 --kills 1",
            PLACE + "; minutes",
        ),
    ],
    "docs/pictures.md": [
        Step("drenet screen pictures.csv --weights covid.ckpt --out runs/public"),
        Step("drenet evaluate runs/public --labels pictures.csv"),
        swapped(
            "drenet train pictures.csv --labels pictures.csv --task covid-vs-healthy --out trained-on-pictures",
            HOURS,
            ("", "--recipe tiny.toml"),
        ),
        Step("drenet evaluate trained-on-pictures --labels pictures.csv"),
    ],
    "docs/cluster.md": [
        Step("python3 -m venv .venv"),
        Step("source .venv/bin/activate"),
        Step("pip install -c constraints.txt -e '.[mpi]'"),
        Step("drenet phantom archive --studies 6 --matrix 192 --slices 24"),
        Step("cp pipeline/weights/covid-vs-bacterial.safetensors network.safetensors"),
        Step("cat > site.toml << 'END'\n[cluster]\nnodes = 2\nranks_per_node = 2\nwalltime_min = 10\nEND"),
        Step("drenet doctor --config site.toml --archive archive --weights network.safetensors --out runs/first"),
        Step("drenet submit archive --weights network.safetensors --out runs/first --config site.toml --dry-run"),
        Step("drenet submit archive --weights network.safetensors --out runs/first --config site.toml"),
        Step("squeue --me"),
        Step(
            "drenet status runs/first",
            'until [ -e runs/first/private/manifest.jsonl ] || [ -z "$(squeue -h)" ]; do sleep 1; done\n'
            "drenet status runs/first",
            "a reader looks when squeue says that the job runs: here that is waited for",
            CLUSTER_HAS,
        ),
        swapped("drenet submit ARCHIVE --weights covid.ckpt --out RUN --config site.toml --estimate", PLACE, *place("first")),
        swapped(
            "drenet submit ARCHIVE --weights covid.ckpt --out RUN --config site.toml --estimate --measured OTHER_RUN",
            PLACE,
            ("OTHER_RUN", "runs/first"),
            *place("indexed"),
        ),
        swapped(
            "drenet submit ARCHIVE --weights covid.ckpt --out RUN --config site.toml", PLACE, *place("second"), done("second")
        ),
        swapped("sbatch slurm/screen.sbatch ARCHIVE --weights covid.ckpt --out RUN", PLACE, *place("third"), done("third")),
        swapped(
            "sbatch --array=1-2 slurm/array.sbatch ARCHIVE --weights covid.ckpt --out RUN",
            PLACE,
            *place("fourth"),
            done("fourth"),
        ),
        swapped(
            "slurm/chain.sh 3 slurm/screen.sbatch ARCHIVE --weights covid.ckpt --out RUN",
            PLACE,
            *place("fifth"),
            done("fifth"),
        ),
    ],
}

PLACEHOLDERS = dict([DATA])
"""Paths of the pages that stand for the reader's own, in what else is run as it stands."""

BEFORE = {  # what the reader of a page has, besides what its steps bring
    "README.md": "",
    "docs/server.md": "make --silent .venv/demo-ready\nsource .venv/bin/activate",
    "docs/pictures.md": f"make --silent .venv/demo-ready\nsource .venv/bin/activate\n{PICTURES_HAS}",
    "docs/cluster.md": "",
}

PRELUDE = """set -eu -o pipefail
trap 'echo "##### ended with $?"' ERR
answers() { for _ in $(seq 600); do curl -sf "http://127.0.0.1:$port/healthz" > /dev/null && return; sleep 0.5; done; false; }
trap 'kill $(jobs -p) 2> /dev/null || true; wait || true' EXIT
"""


def script(page):
    """One script of bash that follows a page from top to bottom and ends with 1 at the first thing that does not work."""
    parts = [PRELUDE, BEFORE[page]]
    for step, (command, run) in zip(STEPS[page], told(page), strict=True):
        assert step.command == command, (step.command, command)
        chosen = step.instead
        if chosen is None:
            chosen = run
            for placeholder, place in PLACEHOLDERS.items():
                chosen = chosen.replace(placeholder, place)
        title = command.splitlines()[0].replace("'", "'\\''")
        parts += [f"echo '##### {title}'", chosen, step.then]
    return "\n".join(parts) + "\n"
