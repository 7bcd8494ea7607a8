"""The command `drenet`: sub-commands, log handlers, exit codes; the only place that prints.

Heavy libraries are imported inside the command that needs them, so that `drenet --help` answers on any login node.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline import __version__
from pipeline.errors import ConfigurationError, PipelineError

NOTICE = "Research use only. Not a medical device."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 2 usage, 74 storage, 75 drained, 1 other)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        return int(options.command(options) or 0)
    except PipelineError as error:
        if _rank() == 0:
            print(f"drenet: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 75
    except Exception:
        logging.getLogger(__name__).exception("unexpected error on rank %d", _rank())
        _abort()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="drenet", description=f"Screen chest-CT archives with DRE-Net. {NOTICE}")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    screen = commands.add_parser("screen", help="screen an archive; started again on the same --out it resumes")
    _add_archive(screen)
    screen.add_argument("--weights", type=Path, action="append", required=True, help="checkpoint; may repeat")
    screen.add_argument("--ranks", type=int, default=1, help="start this many MPI ranks on this machine")
    screen.add_argument("--refresh", action="store_true", help="index again: take in what is new in the archive")
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

    phantom = commands.add_parser("phantom", help="write a synthetic archive")
    phantom.add_argument("folder", type=Path)
    for name, default in (("studies", 12), ("matrix", 512), ("slices", 40), ("seed", 0)):
        phantom.add_argument(f"--{name}", type=int, default=default)
    phantom.add_argument("--compress", help="rle, jpeg-ls or jpeg2000")
    phantom.add_argument("--clutter", action="store_true", help="with what real archives hold besides")
    phantom.set_defaults(command=_phantom)

    demo = commands.add_parser("demo", help="synthetic archive, screening on 2 ranks, where to find the results")
    demo.add_argument("folder", type=Path, nargs="?", default=Path("demo"))
    demo.set_defaults(command=_demo)
    return parser


def _add_archive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", type=Path, help="the archive's top folder")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--config", type=Path, help="TOML; see configs/")
    parser.add_argument("--key-file", type=Path, help="pseudonym key (default: $DRENET_KEY_FILE, ~/.config/drenet/)")


def _screen(options: argparse.Namespace) -> int:
    if options.ranks > 1 and "PMI_SIZE" not in os.environ:
        return _launched(options.ranks, sys.argv[1:])
    from pipeline.config import read_config
    from pipeline.ranks import connect
    from pipeline.run import Request, run

    config = read_config(options.config)
    world = connect(root_computes_up_to=config.run.root_computes_up_to)
    request = Request(
        options.archive,
        tuple(options.weights),
        options.out,
        config,
        options.key_file,
        refresh=options.refresh,
        contact_sheet=options.contact_sheet,
    )
    summary = run(world, request)
    if summary is not None:
        print(_table(summary.by_status, summary.by_reason))
        print(f"{summary.n_studies} studies of {summary.n_files} files; results in {options.out}. {NOTICE}")
    return 0


def _launched(ranks: int, arguments: list[str]) -> int:
    """Start the MPI launcher that belongs to this environment."""
    here = Path(sys.executable).with_name("mpiexec")
    launcher = str(here) if here.exists() else shutil.which("mpiexec")
    if launcher is None:
        raise ConfigurationError("--ranks needs MPI: pip install 'drenet-pipeline[mpi]', or load the site's module")
    return subprocess.call([launcher, "-n", str(ranks), sys.executable, "-m", "pipeline", *arguments])


def _index(options: argparse.Namespace) -> int:
    from pipeline.config import read_config
    from pipeline.indexing import index
    from pipeline.manifest import read_manifest
    from pipeline.pseudonym import default_key_file, read_or_create_key
    from pipeline.ranks import connect

    if not options.archive.is_dir():
        raise ConfigurationError(f"{options.archive} is no folder: name the archive's top folder")
    config = read_config(options.config)
    world = connect()
    private = options.out / "private"
    key = None
    if world.rank == 0:
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = read_or_create_key(options.key_file or default_key_file())
    index(world, options.archive.absolute(), private if world.rank == 0 else None, config.series, key)
    if world.rank == 0:
        manifest = read_manifest(private)
        ready = sum(entry.status == "READY" for entry in manifest.entries)
        print(f"{manifest.heading.n_files} files, {len(manifest.entries)} studies, {ready} to screen")
    return 0


def _gather(options: argparse.Namespace) -> int:
    from pipeline.run import gather_run

    summary = gather_run(options.run)
    print(summary.digest if options.digest else _table(summary.by_status, summary.by_reason))
    return 0


def _status(options: argparse.Namespace) -> int:
    from pipeline.manifest import read_manifest
    from pipeline.store import last_places

    total = len(read_manifest(options.run / "private").entries)
    done = len([key for key in last_places(options.run) if key])
    print(f"{done} of {total} studies have their record; {total - done} are open")
    return 0


def _phantom(options: argparse.Namespace) -> int:
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


def _demo(options: argparse.Namespace) -> int:
    from pipeline.model import formula_network, save_checkpoint
    from pipeline.phantom import write_archive

    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "archive-truth" / "truth.csv").exists():
        print("writing a synthetic archive of 12 patients ...")
        write_archive(folder / "archive", studies=12, matrix=256, slices=32, clutter=True)
    weights = folder / "formula.safetensors"
    save_checkpoint(formula_network(1 / 8), weights)
    print("screening it on 2 MPI ranks, with formula weights: THE SCORES MEAN NOTHING ...")
    arguments = ["screen", str(folder / "archive"), "--weights", str(weights), "--out", str(folder / "run")]
    code = _launched(2, [*arguments, "--key-file", str(folder / "demo.key"), "--contact-sheet"])
    if code == 0:
        print(f"\ntables:   {folder}/run/studies.csv, patients.csv, exclusions.csv, slices.parquet, results.h5")
        print(f"pictures: {folder}/run/images/\ntruth:    {folder}/archive-truth/truth.csv")
    return code


def _table(by_status: dict[str, int], by_reason: dict[str, int]) -> str:
    lines = [f"{name:<34}{count:>9,}" for name, count in by_status.items()]
    lines += [f"  {name:<32}{count:>9,}" for name, count in by_reason.items()]
    return "\n".join(lines)


def _rank() -> int:
    return int(os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or 0)


def _abort() -> None:
    """An exception on one rank must end all: the others would wait for it for ever."""
    if "mpi4py.MPI" in sys.modules:
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(1)


__all__ = ["main"]
