"""One [cluster] section gives sbatch, yhbatch and submitit jobs; the scripts of slurm/ are made from it and hold in a shell."""

import mmap
import os
import subprocess
import typing
from pathlib import Path

import pytest

from pipeline.config import ClusterConfig, Config, read_config
from pipeline.errors import ConfigurationError
from pipeline.submission import job_script, submit, submit_script
from pipeline.submission.executor import _additional
from pipeline.submission.resources import WORDS, options, step_options
from pipeline.submission.site import site_findings
from tests.tools import tool

ROOT = Path(__file__).parents[1]
SHIPPED = {
    "screen.sbatch": ClusterConfig(nodes=4, ranks_per_node=24),
    "gpu.sbatch": ClusterConfig(nodes=2, ranks_per_node=4, cpus_per_rank=8, gpus_per_node=4),
    "array.sbatch": ClusterConfig(ranks_per_node=24, parts=8),
    "mpiexec.sbatch": ClusterConfig(nodes=4, ranks_per_node=24, launcher="mpiexec"),
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


SINFO = """main*|up|1:00:00|48|191000|(null)|10
main*|up|1:00:00|64|257000|(null)|2
gpu|up|2-00:00:00|32+|515000|gpu:a100:4(S:0-1)|3
old|down|infinite|16|64000|(null)|5
"""
ASSOCIATIONS = "radiology|normal,long\nshared|normal\n"


@pytest.fixture
def site(scheduler, tmp_path):
    """The fake scheduler, with answers to what a site offers."""
    for name, answer in (("sinfo", SINFO), ("sacctmgr", ASSOCIATIONS), ("srun", "")):
        (tmp_path / f"{name}.txt").write_text(answer)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ncat {tmp_path}/{name}.txt\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return scheduler


@pytest.mark.parametrize(
    ("section", "found"),
    [
        ({}, []),
        ({"partition": "gpu", "gpus_per_node": 4, "ranks_per_node": 8, "walltime_min": 2880}, []),
        ({"partition": "mian"}, ["partition"]),
        ({"partition": "old"}, ["partition"]),
        ({"walltime_min": 61}, ["time-limit"]),
        ({"ranks_per_node": 65}, ["cpus"]),
        ({"ranks_per_node": 8, "cpus_per_rank": 9}, ["cpus"]),
        ({"memory_gb_per_node": 252}, ["memory"]),
        ({"memory_gb_per_node": 250, "nodes": 2}, []),
        ({"memory_gb_per_node": 250, "nodes": 3}, ["nodes"]),
        ({"gpus_per_node": 1}, ["gpus"]),
        ({"partition": "gpu", "gpus_per_node": 8, "ranks_per_node": 8}, ["gpus"]),
        ({"partition": "gpu", "nodes": 4}, ["nodes"]),
        ({"account": "radiology", "qos": "long"}, []),
        ({"account": "shared", "qos": "long"}, ["qos"]),
        ({"account": "theirs"}, ["account"]),
    ],
)
def test_what_a_site_cannot_give_is_found_on_the_login_node(section, found, site):
    assert [finding.name for finding in site_findings(ClusterConfig(**section))] == found


def test_a_site_that_says_nothing_has_no_findings(scheduler):
    assert list(site_findings(ClusterConfig(partition="main", account="a", qos="q", nodes=99, parts=9))) == []


@pytest.mark.parametrize("command", ["submit", "doctor"])
def test_a_job_that_cannot_start_is_not_queued_and_the_doctor_says_the_same(command, site, drenet, archive, weights, tmp_path):
    config, pointer = tmp_path / "c.toml", tmp_path / "pointer.ckpt"
    config.write_text('[cluster]\npartition = "mian"\naccount = "theirs"\n')
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    named = ("--weights", pointer, "--out", archive / "run", "--config", config)
    done = drenet(command, *((archive,) if command == "submit" else ("--archive", archive)), *named, PATH=os.environ["PATH"])
    assert done.returncode == {"submit": 2, "doctor": 1}[command], done.stdout
    for said in ("archive: ", "weights: ", "Git LFS pointer", "partition: there is no partition mian", "account: "):
        assert said in done.stdout
    assert "one of gpu, main, old" in done.stdout
    assert "sbatch" not in site.read_text()
    assert not (archive / "run").exists()


def test_a_job_that_can_start_is_queued(site, drenet, archive, weights, tmp_path):
    done = drenet("submit", archive, "--weights", weights, "--out", tmp_path / "run", PATH=os.environ["PATH"])
    assert (done.returncode, "submitted as" in done.stdout) == (0, True), done.stdout
    assert "sbatch" in site.read_text()


def test_python_users_are_refused_the_same_before_anything_is_queued(site, archive, tmp_path):
    (tmp_path / "c.toml").write_text("[cluster]\nnodes = 13\n")
    with pytest.raises(ConfigurationError, match="nodes = 13; partition main has 12"):
        submit(archive, tmp_path / "absent", tmp_path / "run", config=tmp_path / "c.toml")
    assert "sbatch" not in site.read_text()


def test_where_there_is_no_sbatch_submit_says_where_to_go(drenet, archive, weights, tmp_path):
    done = drenet("submit", archive, "--weights", weights, "--out", tmp_path / "R", PATH=str(tmp_path))
    assert (done.returncode, "login node" in done.stdout) == (2, True), done.stdout


def _leg(tmp_path, rank, *, signal_after=None, environment=(), **section):
    """Run a job's script without a scheduler, `rank` being the shell lines that stand for the ranks; (code, tries)."""
    (tmp_path / "rank").write_text(f"#!/bin/bash\necho x >> {tmp_path}/tries\n{rank}\n")
    (tmp_path / "rank").chmod(0o755)
    cluster = ClusterConfig(launcher="mpiexec", command=(str(tmp_path / "rank"),), **section)
    script = job_script(cluster).replace("launch=(mpiexec -n 1)", "launch=()")
    process = subprocess.Popen(["bash", "-c", script], env=os.environ | {"SLURM_JOB_ID": "7"} | dict(environment))
    if signal_after:
        while not (tmp_path / "trapped").exists():
            process.poll()
        process.send_signal(signal_after)
    code = process.wait(timeout=60)
    return code, len((tmp_path / "tries").read_text().splitlines())


@pytest.mark.parametrize(("code", "tries"), [(0, 1), (1, 1), (2, 1), (74, 1), (75, 1), (137, 4), (9, 4)])
def test_ranks_are_started_again_only_when_one_has_died(code, tries, scheduler, tmp_path):
    assert _leg(tmp_path, f"exit {code}") == (code, tries)


@pytest.mark.parametrize(
    ("array", "part"),
    [
        ({}, "1/8"),
        ({"ID": "8", "MIN": "1", "COUNT": "8"}, "8/8"),
        ({"ID": "1", "MIN": "1", "COUNT": "2", "STEP": "1"}, "1/2"),
        ({"ID": "2", "MIN": "1", "COUNT": "2", "STEP": "1"}, "2/2"),
        ({"ID": "0", "MIN": "0", "COUNT": "4", "STEP": "1"}, "1/4"),
        ({"ID": "7", "MIN": "1", "COUNT": "4", "STEP": "2"}, "4/4"),
    ],
)
def test_a_task_of_an_array_does_its_part_of_as_many_as_the_array_has(array, part, scheduler, tmp_path):
    environment = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
    rank = f'echo "$@" > {tmp_path}/told\nexit 0'
    assert _leg(tmp_path, rank, environment=environment.items(), parts=8) == (0, 1)
    assert (tmp_path / "told").read_text().split() == ["screen", "--part", part]


def test_a_job_whose_environment_was_not_activated_says_so(scheduler, tmp_path):
    done = subprocess.run(["bash", "-c", job_script(ClusterConfig(command=("drenet-absent",)))], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no drenet-absent in this job's PATH: activate" in done.stderr
    assert "tries again" not in done.stderr


def test_the_section_that_the_docs_name_asks_for_no_partition_that_a_site_may_not_have():
    cluster = read_config(ROOT / "configs" / "cluster.toml").cluster
    assert [option for option in options(cluster) if "partition" in option] == []
    assert "partition" not in _additional(Config(cluster=cluster))
    for name in ("screen.sbatch", "array.sbatch", "mpiexec.sbatch", "gpu.sbatch"):
        assert "--partition" not in (ROOT / "slurm" / name).read_text(), name


@pytest.mark.parametrize(("code", "calls"), [(0, ""), (2, ""), (74, ""), (75, "scontrol requeue 7\n"), (137, "")])
def test_only_a_job_stopped_in_time_is_queued_again(code, calls, scheduler, tmp_path):
    _leg(tmp_path, f"exit {code}", relaunches=0)
    assert "".join(line + "\n" for line in scheduler.read_text().splitlines() if "requeue" in line) == calls


def test_a_job_is_not_queued_again_without_end(scheduler, tmp_path):
    _leg(tmp_path, "exit 75", requeues=2, environment={"SLURM_RESTART_COUNT": "2"}.items())
    assert "requeue" not in scheduler.read_text()


@pytest.mark.parametrize(("code", "ended"), [(0, True), (1, True), (74, True), (75, False)])
def test_a_chain_goes_on_after_75_and_ends_otherwise(code, ended, scheduler, tmp_path):
    _leg(tmp_path, f"exit {code}", environment={"DRENET_CHAIN": "drenet-1"}.items())
    calls = scheduler.read_text()
    assert ("scancel --state=PENDING --name=drenet-1" in calls, "requeue" in calls) == (ended, False)


@pytest.mark.parametrize("asked", ["USR1", "TERM"])
def test_asked_to_stop_the_script_tells_the_ranks_and_hands_on_their_word(asked, scheduler, tmp_path):
    import signal

    rank = f"trap 'sleep 0.3; exit 75' USR1\n: > {tmp_path}/trapped\nfor i in {{1..100}}; do sleep 0.1; done"
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
    done = subprocess.run([tool("shellcheck"), "-s", "bash", *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_scheduler_that_may_be_asked_for_has_its_words():
    asked = typing.get_args(typing.get_type_hints(ClusterConfig)["flavour"])
    assert set(WORDS) == set(asked)
