"""The whole run: one rank, three ranks, and ranks killed and resumed give the same tables, and nothing is lost."""

import contextlib
import csv
import os
import random
import shutil
import signal
import subprocess
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import h5py
import msgspec
import pytest

import pipeline
from pipeline import open_run
from pipeline.archive import every_slice
from pipeline.config import Config, EngineConfig, RunConfig
from pipeline.errors import ConfigurationError
from pipeline.phantom import chest, torso
from pipeline.phantom.images import series
from pipeline.phantom.writer import write_series
from pipeline.pseudonym import make_key
from pipeline.run.manifest import read_manifest
from pipeline.run.resume import last_records

TABLES = ("studies.csv", "patients.csv", "exclusions.csv", "slices.parquet")


@pytest.fixture(scope="module")
def screened(archive, weights, drenet, tmp_path_factory):
    """The archive screened by one rank: the run that all others must equal."""
    out = tmp_path_factory.mktemp("runs") / "one"
    done = drenet("screen", archive, "--weights", weights, "--out", out, "--contact-sheet")
    assert done.returncode == 0, done.stdout
    (out / "terminal.txt").write_text(done.stdout)  # is searched for what identifies, like the rest
    return out


def _tables(run):
    return {name: (run / name).read_bytes() for name in TABLES}


def _digest(run, drenet):
    done = drenet("gather", run, "--digest")
    assert done.returncode == 0, done.stdout
    return done.stdout.split()[-1]


@pytest.fixture(scope="module")
def digest(screened, drenet):
    return _digest(screened, drenet)


def _rows(run):
    with (run / "studies.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_study_ends_as_the_truth_says(screened, truth):
    manifest = _study_uids(screened)
    got = {manifest[row["study_key"]]: (row["status"], row["reason"]) for row in _rows(screened)}
    assert got == {uid: (row["expected_status"], row["expected_reason"]) for uid, row in truth.items()}


def _study_uids(run):
    return {study.study_key: study.study_uid for study in _manifest_studies(run)}


def _manifest_studies(run):
    manifest = read_manifest(run / "private")
    return [manifest.study(number) for number in range(len(manifest.entries))]


def test_every_file_is_counted_exactly_once(screened, archive):
    n_in_studies = sum(int(row["n_files"]) for row in _rows(screened))
    with (screened / "exclusions.csv").open() as file:
        n_outside = sum(int(row["count"]) for row in csv.DictReader(file) if row["scope"] == "file" and not row["study_key"])
    n_found = sum(path.is_symlink() or not path.is_dir() for path in archive.rglob("*"))
    (zipped,), (tarred,) = archive.rglob("study.zip"), archive.rglob("study.tar.gz")
    with zipfile.ZipFile(zipped) as first, tarfile.open(tarred) as second:
        n_members = len(first.namelist()) + len(second.getnames())
    assert n_in_studies + n_outside == n_found + n_members


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.long), 3])
def test_tables_and_digest_do_not_depend_on_the_number_of_ranks(ranks, plain, weights, drenet, tmp_path):
    done = drenet(*plain.screen, "--weights", weights, "--out", tmp_path / "run", ranks=ranks)
    assert done.returncode == 0, done.stdout
    assert _tables(tmp_path / "run") == _tables(plain.run)
    assert _digest(tmp_path / "run", drenet) == plain.digest


@pytest.fixture(scope="module")
def torsos(weights, tmp_path_factory):
    """Two series from head to pelvis and one of a chest, 96 x 96, screened here."""
    folder = tmp_path_factory.mktemp("torsos")
    patients = (
        torso(3, "covid", (420.0, 240.0), matrix=96, slices=110),
        torso(5, "healthy", (300.0, 300.0), matrix=96, slices=100),
    )
    for number, patient in enumerate((*patients, chest(7, "covid", matrix=96, slices=26))):
        write_series(folder / "archive" / str(number), series(patient, str(number)))
    make_key(folder / "key")
    pipeline.screen(folder / "archive", weights, folder / "run", key_file=folder / "key")
    return folder


def test_the_row_says_that_places_were_chosen_again_and_the_slices_which(torsos):
    run = open_run(torsos / "run")
    again = run.studies[run.studies["warnings"].fillna("").str.contains("LUNG_PLACES")]
    assert again["n_slices"].tolist() in ([110, 100], [100, 110])
    assert (again["n_slices_scored"] >= 12).all()
    first = next(study for study in _manifest_studies(torsos / "run") if study.study_key == again["study_key"].iloc[0])
    z_mm = {source.place: source.z_mm for source in every_slice(first.candidates[0])}
    slices = run.slices[run.slices["study_key"] == first.study_key]
    assert len(slices) >= 12
    assert all(z_mm[row.slice_index] == pytest.approx(row.z_mm) for row in slices.itertuples())
    assert not set(slices["slice_index"]) <= {source.place for source in first.candidates[0].slices}


@pytest.mark.long
def test_places_chosen_again_are_the_same_on_any_ranks_in_parts_and_after_a_kill(torsos, weights, drenet, tmp_path):
    screen = ("screen", torsos / "archive", "--key-file", torsos / "key", "--weights", weights)
    assert drenet(*screen, "--out", tmp_path / "three", ranks=3).returncode == 0
    indexed = drenet("index", torsos / "archive", "--key-file", torsos / "key", "--out", tmp_path / "indexed")
    assert (indexed.returncode, drenet(*screen, "--out", tmp_path / "indexed").returncode) == (0, 0)
    jobs = [drenet(*screen, "--out", tmp_path / "parts", "--part", f"{number}/2", wait=False) for number in (1, 2)]
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]
    for run in ("three", "indexed", "parts"):
        assert _tables(tmp_path / run) == _tables(torsos / "run")
        assert _digest(tmp_path / run, drenet) == _digest(torsos / "run", drenet)
    _survives(1, 1, screen, drenet, tmp_path / "killed", _tables(torsos / "run"))


@pytest.mark.long
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_clutter_is_accounted_for_alike_on_any_number_of_ranks(ranks, screened, digest, archive, weights, drenet, tmp_path):
    done = drenet("screen", archive, "--weights", weights, "--out", tmp_path / "run", ranks=ranks)
    assert done.returncode == 0, done.stdout
    assert _tables(tmp_path / "run") == _tables(screened)
    assert _digest(tmp_path / "run", drenet) == digest


def _kill_randomly(draw, process):
    """Kill a random process below the started one (a rank, the launcher, a decode child) at a random moment; was it running?"""
    time.sleep(draw.uniform(0.3, 6.0))
    if process.poll() is not None:
        return False
    family = _below(process.pid)
    victim = draw.choice(sorted(family))
    _end(victim)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.5 if victim == process.pid else 60)
    for pid in family:
        _end(pid)
    process.wait()
    while any(_is_alive(pid) for pid in family):
        time.sleep(0.02)
    return True


def _below(pid):
    """`pid` and all its descendants."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _is_alive(pid):
    try:
        return "Z" not in (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2][:3]
    except OSError:
        return False


def _end(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _survives(n_kills, seed, screen, drenet, out, expected):
    """Kill runs until `n_kills` have hit a working one; whatever finishes in between, and at last, has the expected tables."""
    draw, n_hit, number = random.Random(seed), 0, 0
    while n_hit < n_kills:
        process = drenet(*screen, "--out", out / str(number), ranks=draw.choice([1, 2, 3]), wait=False)
        hit = _kill_randomly(draw, process)
        n_hit += hit
        if not hit or (out / str(number) / "studies.csv").exists():
            assert _tables(out / str(number)) == expected
            number += 1
    done = drenet(*screen, "--out", out / str(number), ranks=2)
    assert done.returncode == 0, done.stdout
    assert _tables(out / str(number)) == expected


@pytest.mark.long
@pytest.mark.parametrize("n_kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing(n_kills, screened, archive, weights, drenet, tmp_path):
    seed = int(time.time())
    print(f"seed {seed}")
    _survives(n_kills, seed, ("screen", archive, "--weights", weights), drenet, tmp_path, _tables(screened))


@pytest.mark.long
def test_asked_to_stop_a_run_exits_75_and_goes_on_where_it_stopped(screened, archive, weights, drenet, tmp_path):
    out = tmp_path / "run"
    process = drenet("screen", archive, "--weights", weights, "--out", out, ranks=2, wait=False)
    while process.poll() is None and not _n_records(out):
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 75
    n_before = _n_records(out)
    assert drenet("screen", archive, "--weights", weights, "--out", out).returncode == 0
    assert 0 < n_before < _n_records(out)
    assert _tables(out) == _tables(screened)


def _n_records(out):
    return sum(place.kind == "study" and place.status.startswith("OK") for place in last_records(out).values())


def test_started_again_a_finished_run_computes_nothing(screened, archive, weights, drenet):
    before, n_lines = _tables(screened), _n_lines(screened)
    done = drenet("screen", archive, "--weights", weights, "--out", screened)
    assert done.returncode == 0, done.stdout
    assert _tables(screened) == before
    assert _n_lines(screened) <= n_lines + 1  # the archive's findings are said again


def _n_lines(run):
    return sum(len(path.read_bytes().splitlines()) for path in (run / "journal").glob("*/*.jsonl"))


@pytest.mark.long
def test_a_run_is_resumed_with_the_engine_that_began_it(plain, weights, tmp_path):
    run, settings = tmp_path / "run", Config(run=RunConfig(images_top=3, images_flag_at=2.0))
    shutil.copytree(plain.run, run)
    begun = (run / "run.toml").read_text().replace('name = "openvino"', 'name = "torch"')  # as an older version settled it
    (run / "run.toml").write_text(begun)
    pipeline.screen(plain.archive, weights, run, config=settings, key_file=plain.run.parent / "key")
    assert 'name = "torch"' in (run / "run.toml").read_text()
    named = msgspec.structs.replace(settings, engine=EngineConfig(name="openvino"))
    with pytest.raises(ConfigurationError, match=r"engine\.name"):
        pipeline.screen(plain.archive, weights, run, config=named, key_file=plain.run.parent / "key")


def test_a_resume_that_would_change_results_is_refused_naming_the_field(screened, archive, weights, drenet, tmp_path):
    from pipeline.study.drenet import formula_network, save_checkpoint

    other = tmp_path / "other.safetensors"
    save_checkpoint(formula_network(1 / 16, phase=1.0), other)
    config = tmp_path / "c.toml"
    config.write_text("[fill]\ncopies = 3\n")
    make_key(tmp_path / "other.key")
    cases = {
        "weights": ("--weights", other),
        "fill.copies": ("--weights", weights, "--config", config),
        "key": ("--weights", weights, "--key-file", tmp_path / "other.key"),
    }
    for field, options in cases.items():
        done = drenet("screen", archive, *options, "--out", screened)
        assert done.returncode == 2
        assert field in done.stdout


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--weights": "absent.safetensors"}, "cannot read the checkpoint"),
        ({"archive": "absent"}, "is no folder"),
        ({"--out": "file/run"}, "choose another --out"),
        ({"--config": "bad.toml"}, "known here"),
        ({"--weights": "bad.toml"}, "CHECKPOINT_CORRUPT"),
    ],
)
def test_a_wrong_request_stops_before_anything_starts(ranks, change, said, archive, weights, drenet, tmp_path):
    (tmp_path / "file").write_text("in the way\n")
    (tmp_path / "bad.toml").write_text("[engine]\nthread = 2\n")
    options = {"archive": archive, "--weights": weights, "--out": tmp_path / "run"}
    options |= {name: tmp_path / value for name, value in change.items()}
    named = [part for name, value in options.items() if name != "archive" for part in (name, value)]
    done = drenet("screen", options["archive"], *named, ranks=ranks)
    assert (done.returncode, said in done.stdout) == (2, True), done.stdout


def test_a_second_job_on_a_held_run_is_refused_naming_the_holder(screened, archive, weights, drenet):
    from pipeline.run.lock import hold

    with hold(screened):
        done = drenet("screen", archive, "--weights", weights, "--out", screened)
        told = drenet("status", screened).stdout
    assert done.returncode == 2
    assert f"held by process {os.getpid()} on" in done.stdout
    assert f"held by process {os.getpid()} on" in told
    assert "nobody is working on it" in drenet("status", screened).stdout


@pytest.mark.long
def test_what_is_new_in_the_archive_is_ignored_until_a_refresh(archive, weights, drenet, tmp_path):
    from pipeline.phantom import write_archive

    grown, out = tmp_path / "archive", tmp_path / "run"
    write_archive(grown, studies=1, matrix=128, slices=26)
    screen = ("screen", grown, "--weights", weights, "--out", out)
    counts = []
    assert drenet(*screen).returncode == 0
    write_archive(grown, studies=2, matrix=128, slices=26)
    for options in ((), ("--refresh",)):
        assert drenet(*screen, *options).returncode == 0
        counts.append(Counter(row["status"] for row in _rows(out))["OK"])
    assert counts == [1, 2]


@pytest.mark.long
def test_indexing_first_and_screening_later_gives_the_same_tables(screened, archive, weights, drenet, tmp_path):
    done = drenet("index", archive, "--out", tmp_path / "run", ranks=2)
    assert "to screen" in done.stdout
    assert drenet("screen", archive, "--weights", weights, "--out", tmp_path / "run").returncode == 0
    assert _tables(tmp_path / "run") == _tables(screened)


@pytest.mark.long
def test_two_networks_read_each_study_once_and_give_two_columns(plain, weights, drenet, tmp_path):
    done = drenet(*plain.screen, "--weights", weights, "--weights", f"again={weights}", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout
    both, one = open_run(tmp_path / "run").studies, open_run(plain.run).studies
    assert one["probability"].count() == 4
    assert (both["probability"].dropna() == one["probability"].dropna()).all()
    assert (both["probability"].dropna() == both["again"].dropna()).all()


def _everything_said(run):
    """(where, bytes) of all that a run shows: files, their names, and what HDF5 and Parquet hold compressed."""
    for path in run.rglob("*"):
        if "private" not in path.relative_to(run).parts:
            yield f"the name of {path}", os.fsencode(path.name)
            if path.is_file():
                yield str(path), path.read_bytes()
    yield "slices.parquet", open_run(run).slices.to_csv().encode()
    with h5py.File(run / "results.h5") as file:
        yield "attributes", repr(dict(file.attrs)).encode()
        for group in file.values():
            for name, data in group.items():
                if data.dtype.kind in "SO":
                    yield f"{data.name}", b" ".join([name.encode(), *map(bytes, data[:])])


def test_nothing_that_identifies_leaves_the_private_folder(screened, truth, archive):
    secrets = [b"CANARY", b"19010203", os.fsencode(archive), *(uid.encode() for uid in truth)]
    secrets += [row["patient_id"].encode() for row in truth.values() if row["patient_id"].startswith("CANARY")]
    guilty = [(where, secret) for where, said in _everything_said(screened) for secret in secrets if secret in said]
    assert guilty == []
    assert (screened / "private").stat().st_mode & 0o777 == 0o700
    private = b"".join(path.read_bytes() for path in (screened / "private").rglob("*"))
    assert all(uid.encode() in private for uid in truth)


def test_python_users_get_the_summary_and_the_tables(plain):
    run = open_run(plain.run)
    assert plain.summary.n_studies == len(run.studies) == sum(plain.summary.by_status.values()) == 4
    assert run.studies["study_key"].is_monotonic_increasing
    assert len(run.slices) == run.studies["n_slices_scored"].sum() == len(run.results["slices/z_mm"])
    assert len(run.results["details/box"]) == 6 * len(run.slices)


@pytest.mark.long
def test_full_storage_stops_a_run_with_74_and_it_is_resumed(plain, weights, drenet, tmp_path):
    screen = (*plain.screen, "--weights", weights, "--out", tmp_path / "run")
    done = drenet(*screen, fault="storage_of_last_rank_fails_at_second_study", LAST_RANK="0")
    assert (done.returncode, "no space left" in done.stdout) == (74, True), done.stdout
    assert drenet(*screen).returncode == 0
    assert _tables(tmp_path / "run") == _tables(plain.run)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 3])
def test_full_storage_on_one_rank_stops_all_with_74_and_is_resumed(ranks, screened, archive, weights, drenet, tmp_path):
    screen = ("screen", archive, "--weights", weights, "--out", tmp_path / "run")
    fault = "storage_of_last_rank_fails_at_second_study"
    done = drenet(*screen, fault=fault, ranks=ranks, LAST_RANK=str(ranks - 1))
    assert (done.returncode, "no space left" in done.stdout) == (74, True), done.stdout
    assert drenet(*screen, ranks=2).returncode == 0
    assert _tables(tmp_path / "run") == _tables(screened)


@pytest.mark.long
def test_a_failure_that_passes_leaves_no_trace_in_the_tables(plain, weights, drenet, tmp_path):
    (tmp_path / "marks").mkdir()
    options = {"fault": "first_read_of_every_study_fails", "MARKS": str(tmp_path / "marks")}
    done = drenet(*plain.screen, "--weights", weights, "--out", tmp_path / "run", **options)
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "marks").iterdir())) == 4
    assert _tables(tmp_path / "run") == _tables(plain.run)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_failure_that_passes_leaves_no_trace_among_clutter_either(ranks, screened, archive, weights, drenet, tmp_path):
    screen = ("screen", archive, "--weights", weights, "--out", tmp_path / "run")
    (tmp_path / "marks").mkdir()
    done = drenet(*screen, fault="first_read_of_every_study_fails", ranks=ranks, MARKS=str(tmp_path / "marks"))
    assert done.returncode == 0, done.stdout
    assert _tables(tmp_path / "run") == _tables(screened)


def test_a_failure_that_stays_is_tried_three_times_and_recorded(archive, weights, drenet, tmp_path):
    done = drenet("screen", archive, "--weights", weights, "--out", tmp_path / "run", fault="every_read_fails")
    assert done.returncode == 0, done.stdout
    reasons = Counter(row["reason"] for row in _rows(tmp_path / "run"))
    tries = [place.tries for place in last_records(tmp_path / "run").values() if place.transient]
    assert tries == [3] * reasons["IO_ERROR"]
    assert reasons["IO_ERROR"] > 4


def test_too_many_internal_errors_stop_the_run_and_their_log_identifies_nobody(archive, weights, drenet, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[run]\nmax_internal_errors = 2\n")
    screen = ("screen", archive, "--weights", weights, "--out", tmp_path / "run", "--config", config)
    done = drenet(*screen, fault="every_study_meets_a_bug", ranks=2)
    logs = b"".join(path.read_bytes() for path in (tmp_path / "run" / "logs").rglob("*.log"))
    assert (done.returncode, "INTERNAL_ERROR" in done.stdout) == (1, True), done.stdout
    assert b"_prepared > ValueError" in logs or b"failing > ValueError" in logs
    assert b"CANARY" not in logs


@pytest.mark.long
def test_a_root_that_only_deals_gives_the_same_tables(screened, archive, weights, drenet, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[run]\nroot_computes_up_to = 1\n")
    done = drenet("screen", archive, "--weights", weights, "--out", tmp_path / "run", "--config", config, ranks=3)
    assert done.returncode == 0, done.stdout
    assert _tables(tmp_path / "run") == _tables(screened)


@pytest.mark.long
def test_a_report_that_cannot_be_made_ends_with_1_and_keeps_the_tables(screened, archive, weights, drenet, tmp_path):
    screen = ("screen", archive, "--weights", weights, "--out", tmp_path / "run")
    done = drenet(*screen, fault="the_report_meets_a_bug", ranks=2)
    assert (done.returncode, "the tables are complete, but the report" in done.stdout) == (1, True), done.stdout
    assert "CANARY" not in done.stdout
    assert _tables(tmp_path / "run") == _tables(screened)
    assert drenet(*screen).returncode == 0
    assert (tmp_path / "run" / "report" / "index.html").exists()
