"""One command: its arguments, its errors, its exit code."""

from __future__ import annotations

import argparse
import logging
import sys

from pipeline import __version__
from pipeline.cli import jobs, networks, online, runs, synthetic
from pipeline.cli.shared import LOG_FORMAT
from pipeline.errors import PipelineError, RankDied
from pipeline.mpi.launch import end_all_ranks, launched_rank, part_ways
from pipeline.records import NOTICE

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run one command, the program's own or, from Python, `arguments`.

    Its exit code: 0 done, 2 usage, 74 storage, 75 drained, 76 a rank died, 1 other.
    """
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    options.given, options.is_program = given, arguments is None
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
        print("\ndrenet: interrupted; start the same command again", file=sys.stderr)
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
    for room in (runs, online, jobs, networks, synthetic):
        room.add(commands)
    return parser


def _log_to_terminal() -> None:
    """Root says on standard error what it does; the other ranks only what is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if launched_rank() == 0 else logging.WARNING)
    handler.addFilter(lambda record: record.name != "pipeline.study.screener" or record.levelno > logging.INFO)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, handlers=[handler])
    for library in ("highdicom", "matplotlib"):  # they tell UIDs and fonts
        logging.getLogger(library).setLevel(logging.WARNING)
