"""A wrong request is refused with its cure and exit code 2, before torch or pandas is loaded and before anything is written."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.pseudonym import make_key, read_key
from tests.tools import environment, program

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "pandas", "h5py", "mpi4py", "pyarrow")
SCREEN = ("screen", "archive", "--weights", "w.ckpt", "--out", "run")
REPORT = ("report", "run")
PHANTOM = ("phantom", "made")
TRAIN = ("train", "archive", "--labels", "labels.csv", "--task", "three-class", "--out", "trained")
WRONG = [
    (("screen", "archive", "--weights", "w.ckpt", "--out", "archive/run"), "lies within the archive"),
    (("screen", "archive", "--weights", "w.ckpt", "--out", "linked/run"), "lies within the archive"),
    (("screen", "archive", "--weights", "w.ckpt", "--out", "archive"), "lies within the archive"),
    (("screen", "archive", "--weights", "w.ckpt", "--out", "."), "the archive lies within"),
    (("screen", "archive", "--weights", "w.ckpt", "--out", "w.ckpt/run"), "choose another --out"),
    (("screen", "absent", "--weights", "w.ckpt", "--out", "run"), "is no folder"),
    (("screen", "w.ckpt", "--weights", "w.ckpt", "--out", "run"), "is no folder"),
    (("index", "archive", "--out", "archive/run"), "lies within the archive"),
    (("index", "absent", "--out", "run"), "is no folder"),
    (("screen", "archive", "--weights", "absent.ckpt", "--out", "run"), "cannot read the checkpoint absent.ckpt"),
    (("screen", "archive", "--weights", "archive", "--out", "run"), "it is a folder"),
    (("screen", "archive", "--weights", "pointer.ckpt", "--out", "run"), "Git LFS pointer"),
    (("screen", "archive", "--weights", "empty.ckpt", "--out", "run"), "is empty"),
    (("screen", "archive", "--out", "run"), "--weights"),
    ((*SCREEN, "--ranks", "0"), "0 is no whole number from 1 on"),
    ((*SCREEN, "--ranks", "two"), "two is no whole number"),
    ((*SCREEN, "--part", "3/2"), "1 <= I <= N"),
    ((*SCREEN, "--part", "1"), "1 <= I <= N"),
    ((*SCREEN, "--part", "0/2"), "1 <= I <= N"),
    ((*SCREEN, "--config", "bad.toml"), "known here"),
    ((*SCREEN, "--config", "absent.toml"), "cannot read the configuration"),
    ((*SCREEN, "--key-file", "absent.key"), "drenet key absent.key"),
    ((*SCREEN, "--key-file", "open.key"), "chmod 600 open.key"),
    ((*SCREEN, "--key-file", "zero.key"), "holds zeros only"),
    ((*SCREEN, "--key-file", "short.key"), "expected 64 hex digits"),
    ((*SCREEN, "--key-file", "w.ckpt"), "64 hex digits"),
    ((*SCREEN, "--key-file", "absent.key", "--ranks", "2"), "drenet key absent.key"),
    (("key", "sound.key"), "is there already"),
    ((*REPORT, "--box-from", "7"), "7 is no number from 0 to 1"),
    ((*REPORT, "--box-from", "nan"), "nan is no number"),
    ((*REPORT, "--pictured", "-1"), "-1 is no whole number from 0 on"),
    ((*REPORT, "--dicom-studies", "0"), "0 is no whole number from 1 on"),
    ((*PHANTOM, "--studies", "0"), "from 1 on"),
    ((*PHANTOM, "--matrix", "8"), "from 64 to 2048"),
    ((*PHANTOM, "--slices", "0"), "from 1 to 2000"),
    ((*PHANTOM, "--seed", "-1"), "from 0 on"),
    ((*PHANTOM, "--compress", "zip"), "invalid choice"),
    ((*PHANTOM, "--atypical", "1.5"), "from 0 to 1"),
    ((*TRAIN, "--model", "resnet18"), "invalid choice"),
    ((*TRAIN, "--ranks", "0"), "from 1 on"),
    ((*TRAIN, "--key-file", "absent.key"), "drenet key absent.key"),
    ((*TRAIN, "--start", "absent.ckpt"), "cannot read the checkpoint"),
    (("train", "archive", "--labels", "absent.csv", "--task", "three-class", "--out", "t"), "no labels at absent.csv"),
    (("train", "archive", "--labels", "labels.csv", "--task", "two-class", "--out", "t"), "invalid choice"),
    (("train", "archive", "--labels", "labels.csv", "--task", "three-class", "--out", "archive/t"), "lies within"),
    (("quantise", "w.ckpt", "absent", "--out", "q.safetensors"), "is no folder"),
    (("quantise", "w.ckpt", "archive", "--out", "archive/q.safetensors"), "lies within the archive"),
    (("quantise", "empty.ckpt", "archive", "--out", "q.safetensors"), "is empty"),
    ((*SCREEN, "--prometheus-textfile", "run.txt"), ".prom only"),
    ((*SCREEN, "--prometheus-textfile", "absent/run.prom"), "there is no folder absent"),
    (("screen", "archive", "--weights", "label=w.ckpt", "--out", "run"), "--weights NAME=PATH"),
    (("screen", "archive", "--weights", "my net=w.ckpt", "--out", "run"), "names no column"),
    (("screen", "archive", "--weights", "a=absent.ckpt", "--out", "run"), "cannot read the checkpoint absent.ckpt"),
    (("screen", "archive", "--weights", "a=w.ckpt", "--weights", "a=w.ckpt", "--out", "run"), "two columns would be called a"),
    (("find", "archive", "KEY"), "private is not here"),
    (("find", "archive"), "KEY"),
    (("export", "archive"), "--to"),
    (("export", "archive", "--to", "x", "--top", "0"), "from 1 on"),
    (("status", "archive"), "no manifest in"),
    (("screeen",), "invalid choice"),
    ((), "COMMAND"),
    (("submit", "archive", "--weights", "pointer.ckpt", "--out", "run"), "Git LFS pointer"),
    (("submit", "archive", "--weights", "w.ckpt", "--out", "archive/run"), "lies within the archive"),
    (("submit", "archive", "--weights", "w.ckpt", "--out", "run", "--key-file", "absent.key"), "drenet key absent.key"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an archive and a few files, sound and not."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "archive").mkdir()
    (folder / "linked").symlink_to(folder / "archive")
    (folder / "w.ckpt").write_bytes(b"weights")
    (folder / "empty.ckpt").touch()
    (folder / "pointer.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n")
    (folder / "bad.toml").write_text("[engine]\nthread = 2\n")
    (folder / "labels.csv").write_text("patient_id,label\n")
    for name, text in (("open", "0f1e" * 16), ("zero", "00" * 32), ("short", "0f" * 31)):
        (folder / f"{name}.key").write_text(text)
        (folder / f"{name}.key").chmod(0o644 if name == "open" else 0o600)
    make_key(folder / "sound.key")
    return folder


@pytest.fixture(scope="module")
def refused(place):
    """What one fresh process answers to all wrong requests, one after the other: (code, words, heavy modules loaded)."""
    asked = json.dumps([arguments for arguments, _ in WRONG])
    command = [*program("answer_requests"), *HEAVY]
    with_key = environment(DRENET_KEY_FILE=place / "sound.key")
    done = subprocess.run(
        command, input=asked, cwd=place, env=with_key, capture_output=True, text=True, timeout=300, check=False
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(WRONG), done.stdout + done.stderr
    return answers


@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda number: " ".join(WRONG[number][0]))
def test_a_wrong_request_is_refused_saying_what_is_wrong(number, refused):
    code, said, _ = refused[number]
    assert code == 2, said
    assert WRONG[number][1] in said


def test_no_wrong_request_loads_what_is_heavy_or_writes_anything(refused, place):
    assert refused[-1][2] == []
    assert list((place / "archive").iterdir()) == []
    assert {path.name for path in place.iterdir()} == {
        "archive", "linked", "w.ckpt", "empty.ckpt", "pointer.ckpt", "bad.toml", "labels.csv",
        "open.key", "zero.key", "short.key", "sound.key",
    }  # fmt: skip


def test_under_a_launcher_root_refuses_for_all(place, drenet, weights):
    mpiexec = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2", sys.executable, "-m", "pipeline"]
    command = [*mpiexec, "screen", "archive", "--weights", "pointer.ckpt", "--out", "run"]
    with_key = environment(DRENET_KEY_FILE=place / "sound.key")
    done = subprocess.run(command, cwd=place, env=with_key, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr.count("Git LFS pointer")) == (2, 1), done.stdout + done.stderr


def test_a_refused_request_leaves_a_python_callers_signal_handlers_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    assert main(["screen", "absent", "--weights", "w.ckpt", "--out", "run"]) == 2
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_a_key_is_made_by_its_command_for_its_owner_alone(drenet, tmp_path):
    done = drenet("key", tmp_path / "new" / "a.key")
    assert (done.returncode, f"in {tmp_path}/new/a.key" in done.stdout) == (0, True), done.stdout
    assert (tmp_path / "new" / "a.key").stat().st_mode & 0o777 == 0o600
    assert len(read_key(tmp_path / "new" / "a.key")) == 32
