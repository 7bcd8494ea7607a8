"""submit, doctor: a run on a cluster."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.shared import add_archive, add_json, add_weights, as_json, watched_over
from pipeline.config import Config
from pipeline.errors import ConfigurationError, DeviceError
from pipeline.mpi import stall
from pipeline.mpi.launch import end_rank, join
from pipeline.run.weights import Weights

if TYPE_CHECKING:
    from pipeline.submission.site import Finding


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Their arguments."""
    submit = commands.add_parser("submit", help="submit a screening to the cluster's queue, as the [cluster] section says")
    add_archive(submit)
    add_weights(submit)
    submit.add_argument("--dry-run", action="store_true", help="print the script, submit nothing")
    submit.add_argument("--estimate", action="store_true", help="say what it will take, submit nothing")
    submit.add_argument("--measured", type=Path, metavar="RUN", help="with --estimate: a run that was timed (default: --out)")
    submit.add_argument("--local", action="store_true", help="start it on this machine, in the background")
    submit.set_defaults(command=_submit)

    doctor = commands.add_parser("doctor", help="what would go wrong here: on a login node, or under srun or mpiexec")
    doctor.add_argument("--archive", type=Path, help="the archive's top folder (default: not looked at)")
    doctor.add_argument("--out", type=Path, help="the run's folder (default: not looked at)")
    add_weights(doctor, required=False)
    doctor.add_argument("--config", type=Path, help="TOML; see configs/ (default: the paper's choices)")
    doctor.add_argument("--key-file", type=Path, help="pseudonym key (default: $DRENET_KEY_FILE, ~/.config/drenet/)")
    add_json(doctor)
    doctor.set_defaults(command=_doctor)


def _submit(options: argparse.Namespace) -> int:
    from pipeline.config import read_config
    from pipeline.submission import job_script, submit, submit_script

    config = read_config(options.config)
    cluster = config.cluster
    if options.estimate:
        from pipeline.run.estimate import estimate

        needed = estimate(options.out, options.measured or options.out, cluster, config.run)
        print(f"{needed.n_open} studies to do; {needed.n_measured} were timed: {needed.study_s:.2f} s a study and rank")
        print(f"walltime {needed.walltime_s / 60:,.1f} min a job, {needed.node_hours:,.2f} node hours in all")
        print(f"output about {needed.output_bytes / 1e6:,.1f} MB")
        return 0
    if options.dry_run:
        print(job_script(cluster), end="")
        return 0
    from pipeline.submission.looks import PlannedRun, refuse_what_cannot_run

    planned = PlannedRun(config, options.out, tuple(options.weights), options.key_file, options.archive)
    refuse_what_cannot_run(planned, on_cluster=not options.local)
    if options.local:
        files = {"config": options.config, "key_file": options.key_file}
        job = submit(options.archive, options.weights, options.out, local=True, **files)
        print(f"process {job.job_id} works on {options.out}; its words: {job.paths.stderr}")
        return 0
    jobs = submit_script(cluster, screen_arguments(options), options.out)
    print(f"submitted as {', '.join(jobs)}; output in {options.out}/submitted, progress: drenet status {options.out}")
    return 0


def screen_arguments(options: argparse.Namespace) -> list[str]:
    """What `drenet screen` is to be told, with paths that hold on any node."""
    named: list[tuple[str, Path | Weights | None]] = [("--weights", one) for one in options.weights]
    named += [("--out", options.out), ("--config", options.config), ("--key-file", options.key_file)]
    pairs = [(name, str(path.absolute())) for name, path in named if path is not None]
    return [str(options.archive.absolute()), *(part for pair in pairs for part in pair)]


def _doctor(options: argparse.Namespace) -> int:
    watched_over(options)
    from pipeline.config import read_config

    config = read_config(options.config)
    with suppress(ConfigurationError):  # becomes a finding
        join(config.run.join_s)  # before anything heavy is loaded
    stall.begin(config.run.stall_s, config.run.abandon_after_s)
    from pipeline.submission.doctor import examine
    from pipeline.submission.looks import PlannedRun

    found = examine(PlannedRun(config, options.out, tuple(options.weights), options.key_file, options.archive))
    if found is not None:
        _print(found, _hint(config), for_programs=options.json)
    return end_rank(1) if found else 0


def _print(found: list[Finding], hint: str, *, for_programs: bool) -> None:
    if for_programs:
        print(as_json({"findings": found, "hint": hint}))
        return
    for finding in found:
        print(f"{finding.name}: {finding.seen}\n  cure: {finding.cure}")
    if not found:
        print("nothing found that would go wrong")
    if hint:
        print(f"hint: {hint}")


def _hint(config: Config) -> str:
    from pipeline.study.engine import hint

    with suppress(DeviceError):  # the engine that was asked for is not on this node; it may be on those of the job
        return hint(config.engine)
    return ""
