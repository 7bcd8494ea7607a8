"""phantom, demo: synthetic patients, who prove the machinery and nothing clinical."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.cli.shared import number, whole
from pipeline.errors import ConfigurationError
from pipeline.mpi.front import start_ranks
from pipeline.mpi.launched import launched_rank, launched_size


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Their arguments."""
    phantom = commands.add_parser("phantom", help="write a synthetic archive")
    phantom.add_argument("folder", type=Path, help="where it is written; its truth goes to FOLDER-truth")
    for name, default, low, high, told in (
        ("studies", 12, 1, None, "patients, one study each"),
        ("matrix", 512, 64, 2048, "pixels a side of a slice"),
        ("slices", 40, 1, 2000, "slices a study"),
        ("seed", 0, 0, None, "the same seed gives the same patients"),
    ):
        phantom.add_argument(f"--{name}", type=whole(low, high), default=default, help=told)
    phantom.add_argument(
        "--compress", choices=("rle", "jpeg-lossless", "jpeg-ls", "jpeg2000", "deflated"), help="(default: no)"
    )
    phantom.add_argument("--cohort", help="COVID,BACTERIAL,HEALTHY: a labelled cohort of so many, to train on (default: none)")
    phantom.add_argument("--severity", default="0.1,0.95", help="of a cohort's sick patients: drawn from this range")
    phantom.add_argument("--atypical", type=number(0, 1), default=0.0, help="share of a cohort whose chest shows another class")
    phantom.add_argument(
        "--varied", action="store_true", help="a cohort whose hearts, domes, fields of view differ as people's do"
    )
    phantom.add_argument("--ranks", type=whole(1), default=1, help="start this many MPI ranks to write a cohort")
    phantom.add_argument("--clutter", action="store_true", help="with what real archives hold besides")
    phantom.set_defaults(command=_phantom)

    demo = commands.add_parser("demo", help="synthetic archive, screening on 2 ranks, where to find the results")
    demo.add_argument("folder", type=Path, nargs="?", default=Path("demo"), help="where all of it goes (default: demo)")
    demo.set_defaults(command=_demo)


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
    size = (options.matrix, options.slices)
    plan = CohortPlan(
        (covid, bacterial, healthy), options.seed, (low, high), *size, atypical=options.atypical, varied=options.varied
    )
    write_cohort(options.folder, plan, rank=launched_rank(), size=launched_size())
    if launched_rank() == 0:
        print(
            f"{covid + bacterial + healthy} synthetic patients in {options.folder}, labels in {options.folder}-truth/labels.csv"
        )
    return 0


def _demo(options: argparse.Namespace) -> int:
    from pipeline.phantom import write_archive
    from pipeline.pseudonym import read_or_make_key
    from pipeline.study.shipped import shipped_weights

    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "archive-truth" / "truth.csv").exists():
        print("writing a synthetic archive of 12 patients ...")
        write_archive(folder / "archive", studies=12, matrix=256, slices=32, clutter=True)
    networks = list(shipped_weights().values())
    print(f"screening it on 2 MPI ranks with {', '.join(path.stem for path in networks)}, trained on synthetic patients ...")
    read_or_make_key(folder / "demo.key")
    arguments = ["screen", str(folder / "archive"), "--out", str(folder / "run"), "--key-file", str(folder / "demo.key")]
    arguments += [part for path in networks for part in ("--weights", str(path))]
    code = start_ranks(2, [*arguments, "--contact-sheet"])
    if code == 0:
        print(_scores_by_label(folder))
        print(f"\nreport:   {folder}/run/report/index.html")
        print(f"tables:   {folder}/run/studies.csv, patients.csv, exclusions.csv, slices.parquet, results.h5")
        print(f"pictures: {folder}/run/images/\ntruth:    {folder}/archive-truth/truth.csv")
    return code


def _scores_by_label(folder: Path) -> str:
    """Mean probability of the synthetic patients by what they are."""
    import pandas as pd

    from pipeline.pseudonym import pseudonym, read_or_make_key
    from pipeline.run.read_tables import open_run

    key = read_or_make_key(folder / "demo.key")
    truth = pd.read_csv(folder / "archive-truth" / "truth.csv").query("what == 'patient'")
    label = {pseudonym(key, "study", str(uid)): name for uid, name in zip(truth["study_uid"], truth["label"], strict=True)}
    run = open_run(folder / "run")
    studies = run.studies[run.studies["study_key"].isin(label)]
    means = studies.groupby(studies["study_key"].map(label))[[one.column for one in run.networks]].mean()
    means.index.name = "patients"
    return f"\nmean probability of COVID-19 by network (synthetic patients: no word on accuracy):\n{means.round(3)}"
