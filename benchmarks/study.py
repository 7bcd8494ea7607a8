"""The paper's experiment on a synthetic cohort: [mpiexec -n N] python benchmarks/study.py [FOLDER] [--plan TOML] [--docs DOCS].

Two tasks, four networks, the same patients in the same parts. Everything that was done stays in FOLDER and is not done again;
at the end docs/study/ gets the two tables beside the paper's, the differences between the networks, and the curves. Synthetic
patients say nothing about clinical accuracy: what is tried is the machinery.

Where several networks can be trained side by side (one GPU holds eight), prepare first (`--prepare`), then start one process
each with `--task TASK --model MODEL`, and the whole once more for the tables.
"""

import argparse
import csv
import logging
import shutil
import sys
import tomllib
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
import numpy as np  # noqa: E402

from pipeline.cohort.tasks import CLASSES, POSITIVE  # noqa: E402
from pipeline.config import Config  # noqa: E402
from pipeline.evaluation.delong import area_with_interval, paired_difference  # noqa: E402
from pipeline.evaluation.evaluate import Asked, evaluate  # noqa: E402
from pipeline.evaluation.held_out import by_patient_key  # noqa: E402
from pipeline.mpi.launch import connect, end_all_ranks  # noqa: E402
from pipeline.phantom import CohortPlan, write_cohort  # noqa: E402
from pipeline.pseudonym import read_or_make_key  # noqa: E402
from pipeline.training.recipe import Recipe  # noqa: E402
from pipeline.training.run import TrainingRequest, gather_cohort, train  # noqa: E402

TASKS = {"covid-vs-bacterial": "classification", "covid-vs-healthy": "diagnosis"}
MODELS = {"resnet50": "ResNet", "drenet": "DRE-Net", "vgg16": "VGG16", "densenet121": "DenseNet"}
METRICS = ("AUC", "recall", "precision", "F1", "accuracy")
PAPER = {  # Song et al., medRxiv 2020.02.23.20026930, test part, patient level
    ("classification", "VGG16"): (0.91, 0.89, 0.80, 0.84, 0.84),
    ("classification", "DenseNet"): (0.87, 0.93, 0.76, 0.83, 0.82),
    ("classification", "ResNet"): (0.90, 0.93, 0.81, 0.86, 0.86),
    ("classification", "DRE-Net"): (0.95, 0.96, 0.79, 0.87, 0.86),
    ("diagnosis", "VGG16"): (0.98, 0.89, 0.92, 0.91, 0.90),
    ("diagnosis", "DenseNet"): (0.97, 0.92, 0.85, 0.92, 0.92),
    ("diagnosis", "ResNet"): (0.99, 0.89, 0.96, 0.92, 0.92),
    ("diagnosis", "DRE-Net"): (0.99, 0.93, 0.96, 0.94, 0.94),
}


@dataclass(frozen=True)
class Plan:
    """configs/study.toml."""

    cohort: CohortPlan
    recipes: dict[str, Recipe]

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """The plan, with one recipe a network."""
        said = tomllib.loads(path.read_text())
        recipes = {}
        for model in MODELS:
            phase = said["drenet" if model == "drenet" else "baseline"]
            recipes[model] = msgspec.convert({**said["recipe"], **phase, "model": model}, Recipe)
        return cls(msgspec.convert(said["cohort"], CohortPlan), recipes)


def main():
    """Cohort, training, tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "study")
    parser.add_argument("--task", choices=TASKS, help="train for no other task, and write no tables")
    parser.add_argument("--model", choices=MODELS, help="train no other network, and write no tables")
    parser.add_argument("--prepare", action="store_true", help="write the patients and prepare their slices, no more")
    parser.add_argument("--plan", type=Path, default=ROOT / "configs" / "study.toml")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "study")
    options = parser.parse_args()
    world, folder = connect(), options.folder.absolute()
    plan = Plan.read(options.plan)
    if world.rank == 0:
        read_or_make_key(folder / "key")
    write_cohort(folder / "cohort", plan.cohort, rank=world.rank, size=world.size)
    world.gather(b"")  # nobody reads before everybody has written
    for task in [options.task] if options.task else TASKS:
        for model in [options.model] if options.model else MODELS:
            asked = request(folder, task, plan.recipes[model])
            if options.prepare:
                for place in (asked.out / "private", asked.folders.cache):
                    place.mkdir(parents=True, exist_ok=True)
                gather_cohort(world, asked)
            elif not (asked.out / "done").exists():
                train(world, asked)
                if world.rank == 0:
                    evaluate(Asked(asked.out, asked.labels, cache=asked.cache, key_file=asked.key_file))
                    (asked.out / "done").touch()
    if world.rank == 0 and not (options.task or options.model or options.prepare):
        write_tables(folder, plan, options.docs)


def request(folder, task, recipe):
    """One network's training; the seed gives every network of a task the same patients in its parts."""
    labels, out = folder / "cohort-truth" / "labels.csv", folder / task / recipe.model
    return TrainingRequest(
        folder / "cohort", labels, task, out, recipe, Config(), cache=folder / "cache", key_file=folder / "key"
    )


def write_tables(folder, plan, docs):
    """Write docs/study/ from what every network earned on the test part."""
    docs.mkdir(parents=True, exist_ok=True)
    parts = [(ROOT / "docs" / "study" / "head.md").read_text().strip(), _settings(plan)]
    for task, name in TASKS.items():
        runs = {model: folder / task / model for model in MODELS}
        parts += [f"## {task} (the paper's {name})", _table(name, runs), _differences(runs), _ceiling(folder, task, runs)]
        for model, run in runs.items():
            shutil.copyfile(run / "evaluation" / "test" / "curves.png", docs / f"{task}-{model}.png")
        parts.append(f"![ROC, precision and recall, calibration of DRE-Net]({task}-drenet.png)")
    (docs / "README.md").write_text("\n\n".join(parts) + "\n")


def _settings(plan):
    cohort = plan.cohort
    covid, bacterial, healthy = cohort.counts
    return (
        f"Cohort: {covid} COVID-like, {bacterial} bacterial-like, {healthy} healthy phantoms, seed {cohort.seed}, severity "
        f"{cohort.severity[0]} to {cohort.severity[1]}, {cohort.atypical:.0%} with the chest of another class, "
        f"{cohort.slices} slices of {cohort.matrix} x {cohort.matrix}; networks "
        f"{plan.recipes['drenet'].width:g} times as wide as in the paper. All settings: "
        "[configs/study.toml](../../configs/study.toml)."
    )


def _table(name, runs):
    lines = ["| by patient, test part | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for model, run in runs.items():
        found = {row["metric"]: row for row in _rows(run, "figures.csv") if row["level"] == "patient"}
        ours = [f"{float(r['value']):.2f} ({float(r['low']):.2f}-{float(r['high']):.2f})" for r in map(found.get, METRICS)]
        lines.append(f"| {MODELS[model]}, synthetic patients | " + " | ".join(ours) + " |")
        lines.append(
            f"| {MODELS[model]}, the paper's patients | " + " | ".join(f"{v:.2f}" for v in PAPER[name, MODELS[model]]) + " |"
        )
    return "\n".join(lines)


def _differences(runs):
    """DRE-Net's AUC less each other's, on the same patients."""
    ours = {row["patient_key"]: row for row in _rows(runs["drenet"], "patients.csv")}
    told = []
    for model, run in runs.items():
        if model == "drenet":
            continue
        theirs = {row["patient_key"]: float(row["probability"]) for row in _rows(run, "patients.csv")}
        target = np.array([row["positive"] == "1" for row in ours.values()])
        score = np.array([float(row["probability"]) for row in ours.values()])
        gap = paired_difference(target, score, np.array([theirs[key] for key in ours]))
        told.append(f"{MODELS[model]} {gap.area:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})")
    return f"DRE-Net's AUC less that of, on the same patients (paired DeLong): {'; '.join(told)}."


def _ceiling(folder, task, runs):
    """The AUC of whoever sees what each chest shows, and no more: atypical patients are beyond everybody."""
    shows = by_patient_key(folder / "cohort-truth" / "truth.csv", read_or_make_key(folder / "key"), "shows")
    patients = _rows(runs["drenet"], "patients.csv")
    target = np.array([row["positive"] == "1" for row in patients])
    said = {POSITIVE: 1.0, CLASSES[task][0]: 0.0}  # the third class says nothing
    area = area_with_interval(target, np.array([said.get(shows[row["patient_key"]], 0.5) for row in patients])).area
    return f"Atypical patients bound every reader: who sees rightly what each of these chests shows has an AUC of {area:.2f}."


def _rows(run, table):
    with (run / "evaluation" / "test" / table).open() as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        main()
    except BaseException:
        traceback.print_exc()
        end_all_ranks(1)
        raise
