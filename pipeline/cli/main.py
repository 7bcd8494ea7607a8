"""One command: its arguments, its errors, its exit code."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import sys

from pipeline import __version__
from pipeline.cli import completion, jobs, networks, online, origins, runs, synthetic
from pipeline.cli.shared import LOG_FORMAT
from pipeline.errors import PipelineError, RankDied
from pipeline.mpi.launch import end_all_ranks, end_rank
from pipeline.mpi.launched import launched_rank
from pipeline.mpi.terminal import be_quiet
from pipeline.records import NOTICE

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run one command, the program's own or, from Python, `arguments`.

    Its exit code: 0 done, 2 usage, 74 storage, 75 drained, 76 a rank died, 1 other.
    """
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    options.given = given
    options.is_program = arguments is None
    if options.is_program:
        atexit.register(gc.freeze)  # all ends with the process: to look for garbage first would take half a second
    if options.quiet:
        be_quiet()
    _log_to_terminal(quiet=options.quiet)
    try:
        return int(options.command(options) or 0)
    except PipelineError as error:
        if launched_rank() == 0:
            print(f"drenet: {error}", file=sys.stderr)
        return end_rank(error.exit_code)
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
    for room in (runs, origins, online, jobs, networks, synthetic, completion):
        room.add(commands)
    for command in commands.choices.values():
        command.formatter_class = Formatter
        command.add_argument("--quiet", action="store_true", help="say only what is wrong, and the answer: no progress")
    return parser


class Formatter(argparse.HelpFormatter):
    """Help that ends in the default, where the text does not say it itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.help or ""
        has_default = bool(action.option_strings) and not action.required and action.nargs != 0
        return f"{told} (default: %(default)s)" if has_default and "default" not in told else told


def _log_to_terminal(*, quiet: bool) -> None:
    """Root says on standard error what it does; the other ranks only what is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if launched_rank() == 0 and not quiet else logging.WARNING)
    handler.addFilter(lambda record: record.name != "pipeline.study.screener" or record.levelno > logging.INFO)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, handlers=[handler])
    for library in ("highdicom", "matplotlib"):  # they tell UIDs and fonts
        logging.getLogger(library).setLevel(logging.WARNING)
