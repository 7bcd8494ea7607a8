"""One [cluster] section gives sbatch, yhbatch and submitit jobs; the scripts of slurm/ are made from it and hold in a shell."""

import mmap
import os
import subprocess
from pathlib import Path

import pytest

from pipeline.config import ClusterConfig
from pipeline.errors import ConfigurationError
from pipeline.submission import job_script, submit_script
from pipeline.submission.executor import _additional
from pipeline.submission.resources import options, step_options

ROOT = Path(__file__).parents[1]
SHIPPED = {
    "screen.sbatch": ClusterConfig(partition="main", nodes=4, ranks_per_node=24),
    "gpu.sbatch": ClusterConfig(partition="gpu", nodes=2, ranks_per_node=4, cpus_per_rank=8, gpus_per_node=4),
    "array.sbatch": ClusterConfig(partition="main", ranks_per_node=24, parts=8),
    "mpiexec.sbatch": ClusterConfig(partition="main", nodes=4, ranks_per_node=24, launcher="mpiexec"),
    "screen.yhbatch": ClusterConfig(flavour="tianhe", partition="work", nodes=4, ranks_per_node=24, options=("--exclusive",)),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_scripts_are_what_submit_writes(name):
    path = ROOT / "slurm" / name
    script = job_script(SHIPPED[name], name)
    if os.environ.get("WRITE_SCRIPTS"):
        path.write_text(script)
        path.chmod(0o755)
    assert path.read_text() == script


def test_a_part_of_the_section_that_is_not_set_is_not_asked_for():
    assert options(ClusterConfig()) == [
        "--job-name=drenet", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=60",
        "--signal=B:USR1@120", "--requeue", "--open-mode=append", "--output=%x-%j.log",
    ]  # fmt: skip


def test_several_ranks_a_gpu_are_bound_to_none_and_share_them_out_by_local_rank():
    one, four = (step_options(ClusterConfig(gpus_per_node=2, ranks_per_node=ranks)) for ranks in (2, 8))
    assert [option for option in one if option not in four] == ["--gpus-per-task=1", "--gpu-bind=closest"]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"parts": 2, "legs": 2}, "exclude each other"),
        ({"gpus_per_node": 4}, "make them equal"),
        ({"walltime_min": 2}, "drain_s leaves nothing"),
        ({"flavour": "tianhe"}, "yhinfo lists yours"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused_with_the_cure(section, said):
    with pytest.raises(ConfigurationError, match=said):
        job_script(ClusterConfig(**section))


def test_submitit_asks_for_the_same_as_the_script():
    from pipeline.config import Config

    cluster = ClusterConfig(partition="main", account="a1", nodes=2, options=("--exclusive",))
    asked = _additional(Config(cluster=cluster))
    assert asked == {"partition": "main", "account": "a1", "exclusive": True, "requeue": True, "signal": "USR1@120"}
    assert all(option in job_script(cluster) for option in step_options(cluster))


FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >> {log}
case "$(basename "$0")" in *batch) echo "Submitted batch job $(wc -l < {log})" ;; esac
"""


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """Programs named like Slurm's, before all others, that write down how they were called."""
    folder, log = tmp_path / "bin", tmp_path / "called"
    folder.mkdir()
    log.touch()
    for name in ("sbatch", "yhbatch", "scontrol", "scancel", "squeue"):
        (folder / name).write_text(FAKE.format(log=log))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


def test_a_chain_is_submitted_each_job_after_the_one_before(scheduler, tmp_path):
    assert submit_script(ClusterConfig(legs=3), ["A", "--out", "R"], tmp_path / "R") == ["1", "2", "3"]
    calls = [line.split() for line in scheduler.read_text().splitlines()]
    assert [[part for part in call if part.startswith("--dep")] for call in calls] == [
        [], ["--dependency=afterany:1"], ["--dependency=afterany:2"],
    ]  # fmt: skip
    assert all(call[-3:] == ["A", "--out", "R"] for call in calls)


def test_yhbatch_is_told_its_options_on_the_command_line_too(scheduler, tmp_path):
    submit_script(ClusterConfig(flavour="tianhe", partition="work", nodes=4), ["A"], tmp_path)
    assert "yhbatch --job-name=drenet --partition=work --nodes=4" in scheduler.read_text()


def test_dry_run_prints_the_script_and_submits_nothing(scheduler, drenet, tmp_path):
    done = drenet("submit", "A", "--weights", "W", "--out", tmp_path / "R", "--dry-run")
    assert (done.returncode, done.stdout) == (0, job_script(ClusterConfig()))
    assert scheduler.read_text() == ""


def test_where_there_is_no_sbatch_submit_says_where_to_go(drenet, tmp_path):
    done = drenet("submit", "A", "--weights", "W", "--out", tmp_path / "R", PATH=str(tmp_path))
    assert (done.returncode, "login node" in done.stdout) == (2, True), done.stdout


def _leg(tmp_path, rank, *, signal_after=None, environment=(), **section):
    """Run a job's script without a scheduler, `rank` being the shell lines that stand for the ranks; (code, tries)."""
    (tmp_path / "rank").write_text(f"#!/bin/bash\necho x >> {tmp_path}/tries\n{rank}\n")
    (tmp_path / "rank").chmod(0o755)
    cluster = ClusterConfig(launcher="mpiexec", command=(str(tmp_path / "rank"),), **section)
    script = job_script(cluster).replace("launch=(mpiexec -n 1)", "launch=()")
    process = subprocess.Popen(["bash", "-c", script], env=os.environ | {"SLURM_JOB_ID": "7"} | dict(environment))
    if signal_after:
        while not (tmp_path / "tries").exists():
            process.poll()
        process.send_signal(signal_after)
    code = process.wait(timeout=60)
    return code, len((tmp_path / "tries").read_text().splitlines())


@pytest.mark.parametrize(("code", "tries"), [(0, 1), (1, 1), (2, 1), (74, 1), (75, 1), (137, 4), (9, 4)])
def test_ranks_are_started_again_only_when_one_has_died(code, tries, scheduler, tmp_path):
    assert _leg(tmp_path, f"exit {code}") == (code, tries)


@pytest.mark.parametrize(("code", "calls"), [(0, ""), (2, ""), (74, ""), (75, "scontrol requeue 7\n"), (137, "")])
def test_only_a_job_stopped_in_time_is_queued_again(code, calls, scheduler, tmp_path):
    _leg(tmp_path, f"exit {code}", relaunches=0)
    assert "".join(line + "\n" for line in scheduler.read_text().splitlines() if "requeue" in line) == calls


def test_a_job_is_not_queued_again_without_end(scheduler, tmp_path):
    _leg(tmp_path, "exit 75", requeues=2, environment={"SLURM_RESTART_COUNT": "2"}.items())
    assert "requeue" not in scheduler.read_text()


@pytest.mark.parametrize(("code", "ended"), [(0, True), (74, True), (75, False)])
def test_a_chain_goes_on_after_75_and_ends_otherwise(code, ended, scheduler, tmp_path):
    _leg(tmp_path, f"exit {code}", environment={"DRENET_CHAIN": "drenet-1"}.items())
    calls = scheduler.read_text()
    assert ("scancel --state=PENDING --name=drenet-1" in calls, "requeue" in calls) == (ended, False)


@pytest.mark.parametrize("asked", ["USR1", "TERM"])
def test_asked_to_stop_the_script_tells_the_ranks_and_hands_on_their_word(asked, scheduler, tmp_path):
    import signal

    rank = "trap 'sleep 0.3; exit 75' USR1\nfor i in {1..100}; do sleep 0.1; done"
    (tmp_path / "rank").touch()
    assert _leg(tmp_path, rank, signal_after=getattr(signal, f"SIG{asked}")) == (75, 1)


def test_the_script_removes_what_dead_ranks_left_in_shared_memory_and_nothing_that_is_used(scheduler, tmp_path):
    srun = scheduler.parent / "bin" / "srun"
    srun.write_text('#!/bin/bash\nwhile [ "${1:0:1}" = - ]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    left, used, young = (Path("/dev/shm") / f"mpich_shm_test{os.getpid()}_{name}" for name in ("left", "used", "young"))
    for path in (left, used, young):
        path.write_bytes(bytes(4096))
    for path in (left, used):
        os.utime(path, (0, 0))
    try:
        with used.open("r+b") as file, mmap.mmap(file.fileno(), 0):
            _leg(tmp_path, "exit 0")
        assert [path.exists() for path in (left, used, young)] == [False, True, True]
    finally:
        for path in (left, used, young):
            path.unlink(missing_ok=True)


def test_the_scripts_pass_shellcheck():
    kinds = ("slurm/*.sbatch", "slurm/*.yhbatch", "slurm/**/*.sh", ".ci/*", "tests/*.sh")
    names = sorted(path for kind in kinds for path in ROOT.glob(kind))
    done = subprocess.run(["shellcheck", "-s", "bash", *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
