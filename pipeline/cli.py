"""The command `drenet`: sub-commands, log handlers, exit codes; the only place that prints.

Heavy libraries are imported inside the command that needs them, so that `drenet --help` answers on any login node.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.errors import ConfigurationError, PipelineError, RankDied
from pipeline.launch import connect, end_all_ranks, launched_rank, launched_size, part_ways, start_ranks

log = logging.getLogger(__name__)
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
NOTICE = "Research use only. Not a medical device."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 2 usage, 74 storage, 75 drained, 76 a rank died, 1 other)."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    options.given = given
    _log_to_terminal()
    try:
        return int(options.command(options) or 0)
    except PipelineError as error:
        if launched_rank() == 0:
            print(f"drenet: {error}", file=sys.stderr)
        return part_ways(error.exit_code)
    except RankDied as error:
        log.error("%s", error)  # noqa: TRY400  no fault of this rank's
        end_all_ranks(error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        end_all_ranks(75)
        return 75
    except Exception:
        log.exception("unexpected error on rank %d", launched_rank())
        end_all_ranks(1)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="drenet", description=f"Screen chest-CT archives with DRE-Net. {NOTICE}")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    screen = commands.add_parser("screen", help="screen an archive; started again on the same --out it resumes")
    _add_archive(screen)
    screen.add_argument("--weights", type=Path, action="append", required=True, help="checkpoint; may repeat")
    screen.add_argument("--refresh", action="store_true", help="index again: take in what is new in the archive")
    screen.add_argument("--part", type=_part, metavar="I/N", help="only the I-th of N fixed parts, held by a lock of its own")
    screen.add_argument("--retry-lost", action="store_true", help="try studies again that were left out as WORKER_LOST")
    screen.add_argument("--contact-sheet", action="store_true", help="write a labelled picture a study into images/")
    screen.set_defaults(command=_screen)

    index = commands.add_parser("index", help="read the archive's headers into the run's manifest")
    _add_archive(index)
    index.set_defaults(command=_index)

    gather = commands.add_parser("gather", help="rebuild the tables of a run from its journals")
    gather.add_argument("run", type=Path)
    gather.add_argument("--digest", action="store_true", help="print the SHA-256 of the payload")
    gather.set_defaults(command=_gather)

    status = commands.add_parser("status", help="how far a run is")
    status.add_argument("run", type=Path)
    status.set_defaults(command=_status)

    _add_cluster(commands)

    phantom = commands.add_parser("phantom", help="write a synthetic archive")
    phantom.add_argument("folder", type=Path)
    for name, default in (("studies", 12), ("matrix", 512), ("slices", 40), ("seed", 0)):
        phantom.add_argument(f"--{name}", type=int, default=default)
    phantom.add_argument("--compress", help="rle, jpeg-ls or jpeg2000")
    phantom.add_argument("--cohort", help="COVID,BACTERIAL,HEALTHY: a labelled cohort of so many patients, to train on")
    phantom.add_argument("--severity", default="0.1,0.95", help="of a cohort's sick patients: drawn from this range")
    phantom.add_argument("--ranks", type=int, default=1, help="start this many MPI ranks to write a cohort")
    phantom.add_argument("--clutter", action="store_true", help="with what real archives hold besides")
    phantom.set_defaults(command=_phantom)

    _add_train(commands)

    demo = commands.add_parser("demo", help="synthetic archive, screening on 2 ranks, where to find the results")
    demo.add_argument("folder", type=Path, nargs="?", default=Path("demo"))
    demo.set_defaults(command=_demo)
    return parser


def _add_cluster(commands: Any) -> None:
    submit = commands.add_parser("submit", help="submit a screening to the cluster's queue, as the [cluster] section says")
    _add_archive(submit)
    submit.add_argument("--weights", type=Path, action="append", required=True, help="checkpoint; may repeat")
    submit.add_argument("--dry-run", action="store_true", help="print the script, submit nothing")
    submit.add_argument("--estimate", action="store_true", help="say what it will take, submit nothing")
    submit.add_argument("--measured", type=Path, metavar="RUN", help="with --estimate: the run whose studies were timed")
    submit.add_argument("--local", action="store_true", help="start it on this machine, in the background")
    submit.set_defaults(command=_submit)

    doctor = commands.add_parser("doctor", help="what would go wrong here: on a login node, or under srun or mpiexec")
    doctor.add_argument("--out", type=Path, help="the run's folder")
    doctor.add_argument("--weights", type=Path, action="append", default=[], help="checkpoint; may repeat")
    doctor.add_argument("--config", type=Path, help="TOML; see configs/")
    doctor.add_argument("--key-file", type=Path, help="pseudonym key")
    doctor.set_defaults(command=_doctor)

    report = commands.add_parser("report", help="the run as a page: RUN/report/index.html")
    report.add_argument("run", type=Path)
    report.add_argument("--box-from", type=float, default=0.8, help="detail score above which a box is drawn (default 0.8)")
    report.add_argument("--pictured", type=int, default=100, help="most studies shown with pictures (default 100)")
    report.add_argument("--dicom", type=Path, metavar="DIR", help="DICOM SR, SEG and overlays, which carry patients' identity")
    report.add_argument("--dicom-studies", type=int, default=10, help="of this many studies, the highest scores (default 10)")
    report.set_defaults(command=_report)


def _add_archive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", type=Path, help="the archive's top folder, or a CSV that lists pictures")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--ranks", type=int, default=1, help="start this many MPI ranks on this machine")
    parser.add_argument("--config", type=Path, help="TOML; see configs/")
    parser.add_argument("--key-file", type=Path, help="pseudonym key (default: $DRENET_KEY_FILE, ~/.config/drenet/)")


def _part(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    return int(number), int(of)


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser("train", help="train a network on an archive with labels; started again it resumes")
    train.add_argument("archive", type=Path, help="the archive's top folder, a CSV that lists pictures, or a run's folder")
    train.add_argument("--labels", type=Path, required=True, help="CSV: patient_id or patient_key, label, optional study_uid")
    train.add_argument("--task", required=True, help="covid-vs-bacterial, covid-vs-healthy or three-class")
    train.add_argument("--out", type=Path, required=True, help="the training run's folder")
    train.add_argument("--recipe", type=Path, help="TOML; see configs/train-*.toml (default: the paper's)")
    train.add_argument("--model", help="drenet, resnet50, vgg16 or densenet121 (default: the recipe's)")
    train.add_argument("--start", type=Path, help="checkpoint, or torchvision-named ResNet-50, to start from")
    train.add_argument("--split", type=Path, help="split.csv of an earlier run with the same pseudonym key")
    train.add_argument("--cache", type=Path, help="where prepared slices are kept (default: within --out); may be shared")
    train.add_argument("--ranks", type=int, default=1, help="start this many MPI ranks on this machine")
    train.add_argument("--config", type=Path, help="how slices are prepared; see configs/")
    train.add_argument("--key-file", type=Path, help="pseudonym key (default: $DRENET_KEY_FILE, ~/.config/drenet/)")
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="figures with intervals and curves of a training run or a screened run")
    evaluate.add_argument("run", type=Path, help="the folder of a training run, or of a screened one")
    evaluate.add_argument("--labels", type=Path, required=True, help="as for train")
    evaluate.add_argument("--part", choices=("train", "validation", "test"), help="of a training run's split (default: test)")
    evaluate.add_argument("--archive", type=Path, help="of a training run: where it was indexed, if not by the run itself")
    evaluate.add_argument("--cache", type=Path, help="as for train")
    evaluate.add_argument("--against", type=Path, help="another run, evaluated on the same patients: the AUCs' difference")
    evaluate.add_argument("--key-file", type=Path, help="as for train")
    evaluate.set_defaults(command=_evaluate)


def _screen(options: argparse.Namespace) -> int:
    if options.ranks > 1 and launched_size() == 1:
        return start_ranks(options.ranks, options.given)
    from pipeline.guard import watched

    in_hand = watched()
    from pipeline.config import read_config
    from pipeline.resume import Request
    from pipeline.run import run

    config = read_config(options.config)
    request = Request(
        options.archive,
        tuple(options.weights),
        options.out,
        config,
        options.key_file,
        refresh=options.refresh,
        contact_sheet=options.contact_sheet,
        part=options.part,
        retry_lost=options.retry_lost,
    )
    world = connect(root_computes_up_to=config.run.root_computes_up_to)
    summary = run(world, request, begun=_log_to_file, in_hand=in_hand)
    if summary is not None:
        print(_table(summary.by_status, summary.by_reason))
        print(
            f"{summary.n_studies} studies of {summary.n_files} files; tables in {options.out}, to be seen in report/. {NOTICE}"
        )
        if summary.by_reason:
            print("What each reason means, and its cure: docs/reasons.md")
    return 0


def _train(options: argparse.Namespace) -> int:
    if options.ranks > 1 and launched_size() == 1:
        return start_ranks(options.ranks, options.given)
    from pipeline.config import read_config
    from pipeline.training.recipe import read_recipe, with_model
    from pipeline.training.run import Request, train

    request = Request(
        options.archive,
        options.labels,
        options.task,
        options.out,
        with_model(read_recipe(options.recipe), options.model),
        read_config(options.config),
        start=options.start,
        split=options.split,
        cache=options.cache,
        key_file=options.key_file,
    )
    state = train(connect(), request)
    if state is not None:
        print(f"best validation AUC {state.best:.3f}; network: {options.out}/best.safetensors. {NOTICE}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from pipeline.training.evaluate import Asked, evaluate
    from pipeline.training.plots import NOTICE as SYNTHETIC
    from pipeline.training.written import interval

    asked = Asked(
        options.run, options.labels, options.part, options.archive, options.cache, options.key_file, options.against
    )  # fmt: skip
    for name, figures in evaluate(asked).items():
        print(f"{options.run}/evaluation/{name}:")
        for figure in figures:
            print(f"{figure.level:<8} {figure.metric:<18} {figure.value:.3f}  ({interval(figure)}, {figure.method})")
    print(SYNTHETIC)
    return 0


def _index(options: argparse.Namespace) -> int:
    if options.ranks > 1 and launched_size() == 1:
        return start_ranks(options.ranks, options.given)
    from pipeline.config import read_config
    from pipeline.run import index_only

    heading = index_only(connect(), options.archive, options.out, read_config(options.config), options.key_file)
    if heading is not None:
        print(f"{heading.n_files} files, {heading.n_studies} studies, {heading.n_ready} to screen; manifest in {options.out}")
    return 0


def _gather(options: argparse.Namespace) -> int:
    from pipeline.run import gather_run

    summary = gather_run(options.run)
    print(summary.digest if options.digest else _table(summary.by_status, summary.by_reason))
    return 0


def _status(options: argparse.Namespace) -> int:
    from pipeline.status import read_status

    status = read_status(options.run)
    print(f"{status.n_done} of {status.n_studies} studies have their record; {status.n_open} are open")
    print(_table(status.by_status, {}))
    if status.rate_per_s:
        print(f"{status.rate_per_s:.2f} studies/s lately, {status.n_open / status.rate_per_s:,.0f} s left at that rate")
    print(f"attempt {status.attempt}; {f'held by {status.holder}' if status.holder else 'nobody is working on it'}")
    return 0


def _submit(options: argparse.Namespace) -> int:
    from pipeline.config import read_config
    from pipeline.submission import job_script, submit, submit_script

    config = read_config(options.config)
    cluster = config.cluster
    if options.estimate:
        from pipeline.estimate import estimate

        needed = estimate(options.out, options.measured or options.out, cluster, config.run)
        print(f"{needed.n_open} studies to do; {needed.n_measured} were timed: {needed.study_s:.2f} s a study and rank")
        print(f"walltime {needed.walltime_s / 60:,.1f} min a job, {needed.node_hours:,.2f} node hours in all")
        print(f"output about {needed.output_bytes / 1e6:,.1f} MB")
        return 0
    if options.dry_run:
        print(job_script(cluster), end="")
        return 0
    if options.local:
        files = {"config": options.config, "key_file": options.key_file}
        job = submit(options.archive, options.weights, options.out, local=True, **files)
        print(f"process {job.job_id} works on {options.out}; its words: {job.paths.stderr}")
        return 0
    jobs = submit_script(cluster, _screen_arguments(options), options.out)
    print(f"submitted as {', '.join(jobs)}; output in {options.out}/submitted, progress: drenet status {options.out}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from pipeline.config import read_config
    from pipeline.doctor import Patient, examine

    found = examine(Patient(read_config(options.config), options.out, tuple(options.weights), options.key_file))
    for finding in found or []:
        print(f"{finding.name}: {finding.seen}\n  cure: {finding.cure}")
    if found == []:
        print("nothing found that would go wrong")
    return part_ways(1) if found else 0


def _screen_arguments(options: argparse.Namespace) -> list[str]:
    """What `drenet screen` is to be told, with paths that hold on any node."""
    named = [("--weights", path) for path in options.weights]
    named += [("--out", options.out), ("--config", options.config), ("--key-file", options.key_file)]
    pairs = [(name, str(path.absolute())) for name, path in named if path is not None]
    return [str(options.archive.absolute()), *(part for pair in pairs for part in pair)]


def _report(options: argparse.Namespace) -> int:
    from pipeline.report import Options, write_report

    print(f"{write_report(options.run, Options(box_from=options.box_from, pictured=options.pictured))}. {NOTICE}")
    if options.dicom:
        from pipeline.report.dicom import write_dicom

        done = write_dicom(options.run, options.dicom, studies=options.dicom_studies, box_from=options.box_from)
        print(f"{done.n_objects} DICOM objects of {done.n_studies} studies in {options.dicom}; {done.n_left_out} left out")
        print("They carry the patients' identity as the originals do: keep them where the archive is kept.")
    return 0


def _phantom(options: argparse.Namespace) -> int:
    if options.cohort:
        return _cohort(options)
    from pipeline.phantom import write_archive

    rows = write_archive(
        options.folder,
        studies=options.studies,
        matrix=options.matrix,
        slices=options.slices,
        seed=options.seed,
        compress=options.compress,
        clutter=options.clutter,
    )
    print(f"{len(rows)} synthetic studies in {options.folder}, their truth in {options.folder}-truth")
    return 0


def _cohort(options: argparse.Namespace) -> int:
    if options.ranks > 1 and launched_size() == 1:
        return start_ranks(options.ranks, options.given)
    from pipeline.phantom import CohortPlan, write_cohort

    try:
        covid, bacterial, healthy = map(int, options.cohort.split(","))
        low, high = map(float, options.severity.split(","))
    except ValueError as error:
        raise ConfigurationError(
            "--cohort takes three whole numbers, --severity two numbers: 88,100,86 and 0.1,0.95"
        ) from error
    plan = CohortPlan((covid, bacterial, healthy), options.seed, (low, high), options.matrix, options.slices)
    write_cohort(options.folder, plan, rank=launched_rank(), size=launched_size())
    if launched_rank() == 0:
        print(
            f"{covid + bacterial + healthy} synthetic patients in {options.folder}, labels in {options.folder}-truth/labels.csv"
        )
    return 0


def _demo(options: argparse.Namespace) -> int:
    from pipeline.phantom import write_archive

    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "archive-truth" / "truth.csv").exists():
        print("writing a synthetic archive of 12 patients ...")
        write_archive(folder / "archive", studies=12, matrix=256, slices=32, clutter=True)
    networks = _demo_networks(folder)
    arguments = ["screen", str(folder / "archive"), "--out", str(folder / "run"), "--key-file", str(folder / "demo.key")]
    arguments += [part for path in networks for part in ("--weights", str(path))]
    code = start_ranks(2, [*arguments, "--contact-sheet"])
    if code == 0:
        if "formula" not in networks[0].name:
            print(_scores_by_label(folder, [path.stem for path in networks]))
        print(f"\nreport:   {folder}/run/report/index.html")
        print(f"tables:   {folder}/run/studies.csv, patients.csv, exclusions.csv, slices.parquet, results.h5")
        print(f"pictures: {folder}/run/images/\ntruth:    {folder}/archive-truth/truth.csv")
    return code


def _demo_networks(folder: Path) -> list[Path]:
    """The shipped networks; while there are none, one whose weights come from a formula."""
    from pipeline.model import formula_network, save_checkpoint
    from pipeline.model.shipped import shipped_weights

    if shipped := list(shipped_weights().values()):
        print(f"screening it on 2 MPI ranks with {', '.join(path.stem for path in shipped)}, trained on synthetic patients ...")
        return shipped
    weights = folder / "formula.safetensors"
    save_checkpoint(formula_network(1 / 8), weights)
    print("screening it on 2 MPI ranks, with formula weights: THE SCORES MEAN NOTHING ...")
    return [weights]


def _scores_by_label(folder: Path, names: list[str]) -> str:
    """Mean probability of the synthetic patients by what they are."""
    import pandas as pd

    from pipeline.pseudonym import pseudonym, read_or_create_key
    from pipeline.tables import open_run

    key = read_or_create_key(folder / "demo.key")
    truth = pd.read_csv(folder / "archive-truth" / "truth.csv").query("what == 'patient'")
    label = {pseudonym(key, "study", str(uid)): name for uid, name in zip(truth["study_uid"], truth["label"], strict=True)}
    studies = open_run(folder / "run").studies
    studies = studies[studies["study_key"].isin(label)].rename(columns={"probability": "probability_1"})
    columns = [f"probability_{number + 1}" for number in range(len(names))]
    means = studies.groupby(studies["study_key"].map(label))[columns].mean()
    means.columns, means.index.name = pd.Index(names), "patients"
    return f"\nmean probability of COVID-19 by network (synthetic patients: no word on accuracy):\n{means.round(3)}"


def _table(by_status: dict[str, int], by_reason: dict[str, int]) -> str:
    lines = [f"{name:<34}{count:>9,}" for name, count in by_status.items()]
    lines += [f"  {name:<32}{count:>9,}" for name, count in by_reason.items()]
    return "\n".join(lines)


def _log_to_terminal() -> None:
    """Root says on standard error what it does; the other ranks only what is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if launched_rank() == 0 else logging.WARNING)
    handler.addFilter(lambda record: record.name != "pipeline.study" or record.levelno > logging.INFO)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, handlers=[handler])
    for library in ("highdicom", "matplotlib"):  # they tell UIDs and fonts
        logging.getLogger(library).setLevel(logging.WARNING)


def _log_to_file(path: Path) -> None:
    """Every rank keeps its own log in the run's folder, one line a study."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logging.getLogger().addHandler(handler)


__all__ = ["main"]
