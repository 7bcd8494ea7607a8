"""`drenet doctor` names each misconfiguration with its cure; docs/cluster.md says which are injected and which faked."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import ClusterConfig, Config, EngineConfig
from pipeline.mpi.leftovers import remove_left_behind
from pipeline.run.weights import Weights
from pipeline.study.pictures import MAX_DEEP_BYTES
from pipeline.submission import doctor, looks
from pipeline.submission.doctor import Seat
from pipeline.submission.looks import PlannedRun
from pipeline.submission.site import site_findings
from tests.tools import environment, program, tool

ROOT = Path(__file__).parents[1]
SEAT = Seat(0, "n1", 4, "", {"torch": "2.13.0"}, 1 << 40)


def _names(found):
    return [finding.name for finding in found]


def test_a_healthy_place_has_no_findings_and_is_looked_at_quickly(weights, drenet, tmp_path):
    remove_left_behind()  # by ranks that other tests have killed
    done = drenet("doctor", "--weights", weights, "--out", tmp_path / "run")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "nothing found that would go wrong"  # a hint on what would be faster may follow
    assert list(tmp_path.iterdir()) == []


def test_singletons_and_the_wrong_pmi_are_told_apart(drenet):
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "4"}
    assert "\nsingletons: 3 ranks" in drenet("doctor", OMPI_COMM_WORLD_SIZE="3").stdout
    assert drenet("doctor", **slurm).stdout.startswith("wrong-pmi: srun started 4 tasks")


def test_more_threads_than_cores_are_found(drenet, tmp_path):
    (tmp_path / "c.toml").write_text("[engine]\nthreads = 4096\n")
    assert "oversubscribed" in drenet("doctor", "--config", tmp_path / "c.toml").stdout


def test_several_ranks_on_one_gpu_are_found_among_real_ranks(tmp_path):
    command = [tool("mpiexec"), "-n", "2", sys.executable, "-m", "pipeline", "doctor"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": str(ROOT), "DRENET_KEY_FILE": str(tmp_path / "key")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "2 ranks on GPU 0" in done.stdout) == (1, True), done.stdout + done.stderr


def test_a_folder_that_cannot_be_written_is_found(drenet):
    assert "unwritable: /proc/drenet" in drenet("doctor", "--out", "/proc/drenet").stdout


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ESTALE, None])
def test_a_file_system_without_sound_locks_is_found(number, monkeypatch, tmp_path):
    def flock(*_):
        if number:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(looks.fcntl, "flock", flock)
    assert _names(looks.unlocked(PlannedRun(Config(), tmp_path))) == ["no-locks"]


def test_full_shared_memory_is_found():
    assert _names(doctor.full_memory([SEAT, Seat(1, "n2", 4, "", {}, 1000)])) == ["shm-full"]


def test_a_home_in_which_no_key_can_be_made_is_found(drenet):
    done = drenet("doctor", HOME="/proc", DRENET_KEY_FILE="")
    assert "home-read-only" in done.stdout, done.stdout


def test_weights_that_are_missing_or_others_are_found(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(looks, "_begun", lambda out: ["another digest"] if out else [])
    missing = looks.wrong_weights(PlannedRun(Config(), weights=(Weights(tmp_path / "absent"),)))
    changed = looks.wrong_weights(PlannedRun(Config(), tmp_path, (Weights(weights),)))
    sound = looks.wrong_weights(PlannedRun(Config(), None, (Weights(weights),)))
    assert (_names(missing), _names(changed), _names(sound)) == (["weights"], ["weights"], [])


def test_an_array_longer_than_the_site_allows_is_found(monkeypatch, tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'MaxArraySize            = 101'\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = [_names(site_findings(ClusterConfig(parts=parts))) for parts in (100, 101)]
    assert found == [[], ["array-too-long"]]


@pytest.fixture
def timed(tmp_path):
    """A run of 1,000 studies, of which ten were timed at 60 s each."""
    from pipeline.records import Line, Study, StudyResult
    from pipeline.run.journal import Journal
    from pipeline.run.manifest import Heading, write_manifest

    studies = [Study(f"s{n:04d}", "p", "uid", "id") for n in range(1000)]
    (tmp_path / "private").mkdir()
    write_manifest(tmp_path / "private", Heading("/a", "k", "s", 0), studies)
    with Journal(tmp_path / "journal" / "0001" / "rank-00000.jsonl") as journal:
        for study in studies[:10]:
            journal.append(Line(result=StudyResult(study.study_key, "p", "OK"), seconds={"infer": 60.0}))
    return tmp_path


def test_a_walltime_too_short_for_the_manifest_is_found(timed):
    section = ClusterConfig(nodes=1, ranks_per_node=33, walltime_min=30)
    short, long = (Config(cluster=section), Config(cluster=ClusterConfig(nodes=1, ranks_per_node=33, walltime_min=60)))
    assert [_names(looks.short_walltime(PlannedRun(config, timed))) for config in (short, long)] == [["walltime"], []]


def test_a_walltime_in_which_the_slowest_study_would_not_end_is_found(timed):
    def found(walltime_min, drain_s):
        section = ClusterConfig(walltime_min=walltime_min, drain_s=drain_s)
        return _names(looks.no_study_ends(PlannedRun(Config(cluster=section), timed)))

    assert [found(4, 121), found(4, 120)] == [["study-too-long"], []]  # 60 s to start, 60 s the slowest


def test_a_drain_shorter_than_the_slowest_study_is_found(timed):
    found = [_names(looks.short_drain(PlannedRun(Config(cluster=ClusterConfig(drain_s=s)), timed))) for s in (59, 60)]
    assert found == [["drain"], []]


def test_the_estimate_follows_from_the_manifest_and_the_measured_rate(timed, drenet):
    config = timed / "c.toml"
    config.write_text("[cluster]\nnodes = 3\nranks_per_node = 11\n")
    done = drenet("submit", "A", "--weights", "W", "--out", timed, "--config", config, "--estimate")
    minutes = (60 + 990 * 60 / 32 + 60) / 60
    assert f"walltime {minutes:.1f} min a job, {3 * minutes / 60:.2f} node hours" in done.stdout, done.stdout


def test_the_estimate_of_the_output_grows_with_what_grows_and_keeps_to_the_bounds_of_pictures(timed, drenet):
    grown = sum(path.stat().st_size for path in timed.glob("journal/*/*")) / 10 * 1000
    grown += sum(path.stat().st_size for path in timed.glob("private/*"))
    for folder, size in (("images", 3_000_000), ("report", 1_000_000)):
        (timed / folder).mkdir()
        (timed / folder / "pictures").write_bytes(bytes(size))
    (timed / "c.toml").write_text("")
    done = drenet("submit", "A", "--weights", "W", "--out", timed, "--estimate")
    # 300 MB of pictures are more than one rank keeps: a pack, and all greys of a few; the report shows 100 studies, not 1,000
    bounded = 64e6 + Config().run.images_top * MAX_DEEP_BYTES + 10e6
    assert f"output about {(grown + bounded) / 1e6:.1f} MB" in done.stdout, done.stdout


def test_clocks_that_differ_are_found():
    assert _names(doctor.skewed_clocks([0.0, 0.1, -1.9])) == []
    assert _names(doctor.skewed_clocks([0.0, 0.1, -30.0])) == ["clock-skew"]


def test_the_clocks_of_real_ranks_are_compared(tmp_path):
    command = [tool("mpiexec"), "-n", "2", *program("compare_clocks")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)[1] == pytest.approx(100, abs=1), done.stderr


def test_ranks_of_different_versions_are_found():
    other = Seat(1, "n2", 4, "", {"torch": "2.12.0"}, 1 << 40)
    assert [finding.seen for finding in doctor.mixed_versions([SEAT, other])] == ["torch: 2.12.0 and 2.13.0"]


def test_an_engine_of_few_threads_crowds_no_node():
    assert _names(doctor.crowded([SEAT], Config())) == []
    assert _names(doctor.crowded([SEAT], replace_threads(8))) == ["oversubscribed"]


def replace_threads(n):
    return Config(engine=EngineConfig(threads=n))
