"""How a run ends: with its tables and its page, or with what is left for the next start."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigurationError, Drained, PipelineError
from pipeline.mpi.stall import moved
from pipeline.run.crate import write_crate
from pipeline.run.legs import end_leg
from pipeline.run.lock import hold_briefly
from pipeline.run.manifest import check_has_ct
from pipeline.run.open_studies import StudySource
from pipeline.run.paths import PRIVATE
from pipeline.run.plan import Request
from pipeline.run.resume import last_records
from pipeline.run.run_toml import provenance, read_described

if TYPE_CHECKING:
    from pipeline.run.gather import Summary

log = logging.getLogger(__name__)


@contextmanager
def legs_watched(source: StudySource | None, request: Request) -> Iterator[None]:
    """Where root is to be started again for the rest, it looks whether that is of any use."""
    begun = time.monotonic()
    try:
        yield
    except PipelineError as error:
        if source is not None and error.exit_code == Drained.exit_code:
            lasted_s = time.monotonic() - begun
            enough_s = request.config.run.abandon_after_s
            end_leg(request.home, source.before, lasted_s, enough_s=enough_s, moved=source.moved)
        raise


def finish(source: StudySource, request: Request) -> Summary | None:
    """Root gathers, where the run came to its end; of parts, the last."""
    source.progress.close()
    if source.broken:
        raise PipelineError("stopped: too many studies ended in INTERNAL_ERROR; see logs/, then start the same command again")
    if source.hopeless_s:
        raise ConfigurationError(
            f"a study takes {source.hopeless_s:,.0f} s, more than the walltime leaves: ask for a longer one"
        )
    if source.out_of_time:
        raise Drained("stopped before the walltime ends; start the same command again to go on")
    if not source.finished:
        raise Drained("stopped early as asked; start the same command again to go on")
    if not request.part:
        return _tables_of(request)
    with hold_briefly(request.out):
        n_open = source.n_open_elsewhere(last_records(request.out))
        if not n_open:
            return _tables_of(request)
    log.info(
        "part %d of %d is done; %d studies are open in other parts, the last of them writes the tables", *request.part, n_open
    )
    return None


def _tables_of(request: Request) -> Summary:
    summary = gather_run(request.out)
    moved()
    if request.report:
        _show(request.out)
        write_crate(request.out)  # anew, with the report
    if not any(status.startswith("OK") for status in summary.by_status):
        check_has_ct(request.out / PRIVATE)
    return summary


def _show(out: Path) -> None:
    """Make the report, which can be made again: whatever goes wrong with it, the tables stay. Raises PipelineError."""
    from pipeline.report import keep_highest, write_report

    try:
        keep_highest(out)
        write_report(out)
    except PipelineError:
        raise
    except Exception as error:
        raise PipelineError(
            f"the tables are complete, but the report could not be made ({type(error).__name__}): "
            f"`drenet report {out.name}` makes it again, and says what is wrong"
        ) from error


def gather_run(out: Path) -> Summary:
    """Rebuild the derived files of a run from its journals."""
    from pipeline.run.gather import gather

    described = read_described(out)
    summary = gather(out, described.networks, provenance(described))
    write_crate(out)
    return summary
