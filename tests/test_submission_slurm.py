"""On a real Slurm with four nodes: however a run is submitted, its payload is that of one rank."""

import os
import sys
from pathlib import Path

import pytest

from pipeline.config import ClusterConfig
from pipeline.run.resume import last_records
from pipeline.submission import job_script

sys.path.insert(0, str(Path(__file__).parent))  # where the bed lies
import slurm_bed
import torture

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[1]
DRENET = (sys.executable, "-m", "pipeline")
BASE = {"partition": "main", "nodes": 4, "walltime_min": 5, "drain_s": 10, "command": DRENET}


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """Four nodes; where Slurm is not installed this is an error, never a skip: `make test-slurm` was asked for."""
    missing = slurm_bed.missing()
    assert not missing, f"wanted: {', '.join(missing)} (Debian: see .ci/slurm-packages)"
    with slurm_bed.Bed(tmp_path_factory.mktemp("bed")) as bed:
        key = tmp_path_factory.mktemp("key") / "pseudonym.key"
        bed.environment |= {"DRENET_KEY_FILE": str(key), "PYTHONPATH": str(ROOT), "PATH": _path(), "SLURM_MPI_TYPE": "pmi2"}
        yield bed


def _path():
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Twelve patients, 64 x 64 x 24."""
    from pipeline.phantom import write_archive

    folder = tmp_path_factory.mktemp("studies") / "archive"
    write_archive(folder, studies=12, matrix=64, slices=24)
    return folder


@pytest.fixture(scope="module")
def one_rank(bed, studies, weights, tmp_path_factory):
    """The digest of one rank, without any cluster."""
    out = tmp_path_factory.mktemp("one") / "run"
    bed.run(*DRENET, "screen", studies, "--weights", weights, "--out", out)
    return _digest(bed, out)


def _digest(bed, run):
    return bed.run(*DRENET, "gather", run, "--digest").split()[-1]


def _script(tmp_path, **section):
    path = tmp_path / "job.sbatch"
    path.write_text(job_script(ClusterConfig(**BASE | section)))
    return path


def _faulty(tmp_path, fault, **section):
    """A script whose ranks have a fault of faults.py built in."""
    return _script(tmp_path, **section | {"command": (sys.executable, f"{ROOT}/tests/faults.py", fault)})


def _log(bed):
    return "\n".join(path.read_text()[-3000:] for path in bed.folder.glob("drenet-*.log"))


@pytest.mark.parametrize("launcher", ["srun", "mpiexec"])
def test_a_job_over_four_nodes_gives_the_digest_of_one_rank(launcher, bed, studies, weights, one_rank, tmp_path):
    script = _script(tmp_path, launcher=launcher, scratch=str(tmp_path / "scratch"))
    job = bed.submit(script, studies, "--weights", weights, "--out", tmp_path / "run")
    bed.wait(job)
    assert bed.state(job) == ("COMPLETED", 0), _log(bed)
    assert _digest(bed, tmp_path / "run") == one_rank
    ranks = {path.name for path in (tmp_path / "run" / "journal").glob("*/rank-*.jsonl")}
    assert len(ranks) == 4


@pytest.mark.parametrize("how", ["as they are", "synchronous"])
def test_messages_of_every_size_cross_between_nodes(how, bed):
    said = bed.run("srun", "--partition=main", "-N4", "-n4", "--mpi=pmi2", sys.executable, ROOT / "tests" / "messages.py", how)
    assert "4 ranks exchanged messages of up to 20,000,000 bytes" in said


def test_a_gpu_job_is_given_gpus_and_has_the_digest_of_one_rank(bed, studies, weights, one_rank, tmp_path):
    """The GPUs are /dev/null and /dev/zero, and this cluster cannot bind: tried is the asking. Ranks compute on the CPU."""
    look = f'echo "a rank sees $CUDA_VISIBLE_DEVICES" >&2; exec {sys.executable} -m pipeline "$@"'
    script = _script(tmp_path, nodes=1, ranks_per_node=2, gpus_per_node=2, command=("bash", "-c", look, "drenet"))
    job = bed.submit(script, studies, "--weights", weights, "--out", tmp_path / "run")
    bed.wait(job)
    assert bed.state(job) == ("COMPLETED", 0), _log(bed)
    assert _digest(bed, tmp_path / "run") == one_rank
    assert (bed.folder / f"drenet-{job}.log").read_text().count("a rank sees 0,1\n") >= 2


@pytest.mark.slow
def test_tianhes_form_runs_under_its_own_commands_and_clock(bed, studies, weights, one_rank, tmp_path):
    """Tianhe's commands are Slurm's under other names, and so they are here."""
    for ours, theirs in (
        ("batch", "sbatch"),
        ("run", "srun"),
        ("control", "scontrol"),
        ("queue", "squeue"),
        ("cancel", "scancel"),
    ):
        (tmp_path / f"yh{ours}").write_text(f'#!/bin/sh\nexec {theirs} "$@"\n')
        (tmp_path / f"yh{ours}").chmod(0o755)
    slow = (sys.executable, f"{ROOT}/tests/faults.py", "every_study_takes_longer")
    script = _script(tmp_path, flavour="tianhe", scratch=str(tmp_path / "scratch"), command=slow, walltime_min=2, drain_s=60)
    environment = bed.environment | {"PATH": f"{tmp_path}:{bed.environment['PATH']}", "LONGER_S": "25"}
    arguments = (script, studies, "--weights", weights, "--out", tmp_path / "run")
    job = bed.run(tmp_path / "yhbatch", "--parsable", *arguments, env=environment).strip()
    bed.wait(job, timeout_s=600)
    assert bed.state(job) == ("COMPLETED", 0), _log(bed)
    assert _digest(bed, tmp_path / "run") == one_rank
    assert len(list((tmp_path / "run" / "journal").iterdir())) > 1, "it was to be stopped once, and queued again"


def test_a_job_array_gives_the_digest_of_one_rank(bed, studies, weights, one_rank, tmp_path):
    script = _script(tmp_path, nodes=1, parts=3)
    job = bed.submit(script, studies, "--weights", weights, "--out", tmp_path / "run")
    bed.wait(job)
    assert _digest(bed, tmp_path / "run") == one_rank, _log(bed)
    assert len(list((tmp_path / "run" / "parts").iterdir())) == 3


def test_submitit_returns_the_summary_and_the_digest_of_one_rank(bed, studies, weights, one_rank, tmp_path, monkeypatch):
    from pipeline.submission import submit

    config = tmp_path / "c.toml"
    config.write_text('[cluster]\npartition = "main"\nnodes = 4\nwalltime_min = 5\ndrain_s = 10\n')
    for name in ("SLURM_CONF", "DRENET_KEY_FILE", "PYTHONPATH", "PATH"):
        monkeypatch.setenv(name, bed.environment[name])
    summary = submit(studies, weights, tmp_path / "run", config=config).results()[0]
    assert (summary.digest, summary.n_studies) == (one_rank, 12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_chain_over_three_time_limits_gives_the_digest_of_one_rank(bed, studies, weights, one_rank, tmp_path):
    """A limit is two minutes and a study takes 40 s: each of two ranks does one or two of its six a job."""
    script = _faulty(tmp_path, "every_study_takes_longer", nodes=2, walltime_min=2)
    chain = [ROOT / "slurm" / "chain.sh", 8, script, studies, "--weights", weights, "--out", tmp_path / "run"]
    jobs = [line.split()[-1] for line in bed.run(*chain, env=bed.environment | {"LONGER_S": "40"}).splitlines()]
    bed.wait(*jobs, timeout_s=1500)
    ended = [bed.state(job) for job in jobs]
    assert _digest(bed, tmp_path / "run") == one_rank, _log(bed)
    n_stopped = ended.index(("COMPLETED", 0))
    assert set(ended[:n_stopped]) <= {("FAILED", 75), ("TIMEOUT", 0)}
    assert n_stopped >= 2
    assert {state for state, _ in ended[n_stopped + 1 :]} == {"CANCELLED"}


@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_ends_with_the_digest_of_one_rank(bed, studies, weights, one_rank, tmp_path):
    script = _faulty(tmp_path, "every_study_takes_longer")
    job = bed.submit(script, studies, "--weights", weights, "--out", tmp_path / "run", LONGER_S="6")
    bed.until(lambda: any(place.status == "OK" for place in last_records(tmp_path / "run").values()))
    other = bed.submit("--partition=urgent", "--nodes=4", "--exclusive", "--wrap=sleep 1")
    bed.wait(other, job)
    assert bed.state(job) == ("COMPLETED", 0)
    assert len({path.parent.name for path in (tmp_path / "run").glob("logs/*/*.log")}) > 1
    assert _digest(bed, tmp_path / "run") == one_rank, _log(bed)


def test_full_storage_ends_the_job_with_74_and_requeues_nothing(bed, studies, weights, tmp_path):
    script = _faulty(tmp_path, "storage_of_last_rank_fails_at_second_study")
    job = bed.submit(script, studies, "--weights", weights, "--out", tmp_path / "run", LAST_RANK="3")
    bed.wait(job)
    assert bed.state(job) == ("FAILED", 74)
    assert "started again" not in (bed.folder / f"drenet-{job}.log").read_text()


def test_a_killed_rank_is_made_good_within_the_allocation(bed, studies, weights, one_rank, tmp_path):
    victim = tmp_path / "victim"
    victim.touch()
    script = _faulty(tmp_path, "one_rank_is_killed_once")
    job = bed.submit(script, studies, "--weights", weights, "--out", tmp_path / "run", VICTIM=str(victim))
    bed.wait(job)
    assert bed.state(job) == ("COMPLETED", 0), _log(bed)
    assert "started again within job" in (bed.folder / f"drenet-{job}.log").read_text()
    assert _digest(bed, tmp_path / "run") == one_rank


def test_the_wrong_pmi_stops_at_once_with_the_cure(bed, studies, weights, tmp_path):
    job = bed.submit(_script(tmp_path, pmi="none"), studies, "--weights", weights, "--out", tmp_path / "run")
    bed.wait(job)
    assert bed.state(job) == ("FAILED", 2)
    assert "do not speak the same" in (bed.folder / f"drenet-{job}.log").read_text()


@pytest.mark.timeout(1800)
def test_seeded_faults_lose_nothing_and_do_nothing_twice(bed, tmp_path):
    seed = int(os.environ.get("TORTURE_SEED", "7"))
    print(f"seed {seed}")
    tally = torture.torment(bed, *torture.prepare(bed, tmp_path), tmp_path, 4, seed)
    assert (tally.n_lost, tally.n_double, tally.n_other) == (0, 0, 0), tally
