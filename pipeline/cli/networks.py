"""train, quantise, evaluate: networks and what they are worth."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.cli.shared import into_mpi, watched_over, whole
from pipeline.errors import ConfigurationError
from pipeline.mpi.front import start_ranks
from pipeline.mpi.launched import launched_size
from pipeline.records import NOTICE
from pipeline.run.beforehand import check_apart, check_archive, check_key, check_weights, check_writable
from pipeline.run.paths import PRIVATE


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Their arguments."""
    train = commands.add_parser("train", help="train a network on an archive with labels; started again it resumes")
    train.add_argument("archive", type=Path, help="the archive's top folder, a CSV of pictures or volumes, or a run's folder")
    train.add_argument("--labels", type=Path, required=True, help="CSV: patient_id or patient_key, label, optional study_uid")
    train.add_argument(
        "--task",
        required=True,
        choices=("covid-vs-bacterial", "covid-vs-healthy", "three-class"),
        help="covid-vs-bacterial, covid-vs-healthy or three-class",
    )
    train.add_argument("--out", type=Path, required=True, help="the training run's folder")
    train.add_argument("--recipe", type=Path, help="TOML; see configs/train-*.toml (default: the paper's)")
    train.add_argument("--model", choices=("drenet", "resnet50", "vgg16", "densenet121"), help="(default: the recipe's)")
    train.add_argument("--start", type=Path, help="checkpoint or torchvision ResNet-50 to start from (default: from scratch)")
    train.add_argument("--split", type=Path, help="split.csv of a run with the same pseudonym key (default: drawn anew)")
    train.add_argument("--cache", type=Path, help="where prepared slices are kept (default: within --out); may be shared")
    train.add_argument("--tensorboard", action="store_true", help="write the curves as event files too (extra [tensorboard])")
    train.add_argument("--ranks", type=whole(1), default=1, help="start this many MPI ranks on this machine")
    train.add_argument("--config", type=Path, help="how slices are prepared; see configs/ (default: the paper's choices)")
    train.add_argument("--key-file", type=Path, help="pseudonym key (default: $DRENET_KEY_FILE, ~/.config/drenet/)")
    train.set_defaults(command=_train)

    quantise = commands.add_parser("quantise", help="measure how a network is rounded to 8 bits, for precision = int8")
    quantise.add_argument("checkpoint", type=Path, help="the network")
    quantise.add_argument("archive", type=Path, help="an archive like those to be screened: a few studies of it are looked at")
    quantise.add_argument("--out", type=Path, required=True, help="the same network as safetensors, saying how it is rounded")
    quantise.add_argument("--config", type=Path, help="how slices are prepared; see configs/ (default: the paper's choices)")
    quantise.set_defaults(command=_quantise)

    evaluate = commands.add_parser("evaluate", help="figures with intervals and curves of a training run or a screened run")
    evaluate.add_argument("run", type=Path, help="the folder of a training run, or of a screened one")
    evaluate.add_argument("--labels", type=Path, required=True, help="as for train")
    evaluate.add_argument("--part", choices=("train", "validation", "test"), help="of a training run's split (default: test)")
    evaluate.add_argument("--archive", type=Path, help="of a training run: where it was indexed (default: by the run itself)")
    evaluate.add_argument("--cache", type=Path, help="where prepared slices are kept (default: within the run)")
    evaluate.add_argument("--against", type=Path, help="another run on the same patients: the AUCs' difference (default: none)")
    evaluate.add_argument("--key-file", type=Path, help="pseudonym key (default: $DRENET_KEY_FILE, ~/.config/drenet/)")
    evaluate.set_defaults(command=_evaluate)


def _train(options: argparse.Namespace) -> int:
    if launched_size() == 1:
        _check_training(options)
    if options.ranks > 1 and launched_size() == 1:
        return start_ranks(options.ranks, options.given)
    watched_over(options)
    from pipeline.config import read_config

    config = read_config(options.config)
    world = into_mpi(config.run)  # before anything heavy is loaded
    from pipeline.training.recipe import read_recipe, with_model
    from pipeline.training.run import TrainingRequest, train

    request = TrainingRequest(
        options.archive,
        options.labels,
        options.task,
        options.out,
        with_model(read_recipe(options.recipe), options.model),
        config,
        start=options.start,
        split=options.split,
        cache=options.cache,
        key_file=options.key_file,
        tensorboard=options.tensorboard,
    )
    state = train(world, request)
    if state is not None:
        print(f"best validation AUC {state.best:.3f}; network: {options.out}/best.safetensors. {NOTICE}")
    return 0


def _quantise(options: argparse.Namespace) -> int:
    check_weights(options.checkpoint)
    check_archive(options.archive)
    check_apart(options.archive, options.out)
    check_writable(options.out.absolute().parent)
    from pipeline.config import read_config

    config = read_config(options.config)
    from pipeline.training.quantise import quantise

    n_slices = quantise(options.checkpoint, options.archive, options.out, config)
    print(f"measured on {n_slices} slices; written: {options.out}. {NOTICE}")
    return 0


def _check_training(options: argparse.Namespace) -> None:
    """Refuse a wrong request before ranks are started, or anything heavy loaded."""
    if not options.labels.is_file():
        raise ConfigurationError(f"there are no labels at {options.labels}: --labels names a CSV")
    if options.start:
        check_weights(options.start)
    check_archive(options.archive)
    if not (options.archive / PRIVATE).exists():  # an archive, and no run's folder
        check_apart(options.archive, options.out)
    check_writable(options.out)
    check_key(options.key_file)


def _evaluate(options: argparse.Namespace) -> int:
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.evaluation.plots import NOTICE as SYNTHETIC
    from pipeline.evaluation.trained_run import Asked
    from pipeline.evaluation.write import interval

    asked = Asked(
        options.run, options.labels, options.part, options.archive, options.cache, options.key_file, options.against
    )  # fmt: skip
    for name, figures in evaluate(asked).items():
        print(f"{options.run}/evaluation/{name}:")
        for figure in figures:
            print(f"{figure.level:<8} {figure.metric:<18} {figure.value:.3f}  ({interval(figure)}, {figure.method})")
    print(SYNTHETIC)
    return 0
