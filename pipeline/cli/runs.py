"""screen, index, key, gather, status, report: a run from its archive to its page."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from pipeline.cli.shared import (
    add_archive,
    add_json,
    add_weights,
    as_json,
    check_before_start,
    check_on_root,
    into_mpi,
    log_to_file,
    number,
    table,
    watched_over,
    whole,
)
from pipeline.mpi.front import start_ranks
from pipeline.mpi.launched import launched_size
from pipeline.records import NOTICE
from pipeline.run.beforehand import check_textfile


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Their arguments."""
    screen = commands.add_parser("screen", help="screen an archive; started again on the same --out it resumes")
    add_archive(screen)
    add_weights(screen)
    screen.add_argument("--refresh", action="store_true", help="index again: take in what is new in the archive")
    screen.add_argument(
        "--part", type=_part, metavar="I/N", help="only the I-th of N fixed parts, under its own lock (default: all)"
    )
    screen.add_argument("--retry-lost", action="store_true", help="try studies again that were left out as WORKER_LOST")
    screen.add_argument("--contact-sheet", action="store_true", help="write a labelled picture a study into images/")
    screen.add_argument(
        "--prometheus-textfile", type=Path, metavar="FILE", help="how far it is, to a .prom file (default: none)"
    )
    add_json(screen)
    screen.set_defaults(command=_screen)

    index = commands.add_parser("index", help="read the archive's headers into the run's manifest")
    add_archive(index)
    index.add_argument(
        "--explain", metavar="STUDY", help="how this study's series was chosen: UID or study_key (default: none)"
    )
    index.set_defaults(command=_index)

    key = commands.add_parser("key", help="make a new pseudonym key, for --key-file or $DRENET_KEY_FILE")
    key.add_argument("file", type=Path, help="where it is made; a file that is there is never written over")
    key.set_defaults(command=_key)

    gather = commands.add_parser("gather", help="rebuild the tables of a run from its journals")
    gather.add_argument("run", type=Path, help="the run's folder")
    gather.add_argument("--digest", action="store_true", help="print the SHA-256 of the payload")
    gather.set_defaults(command=_gather)

    status = commands.add_parser("status", help="how far a run is")
    status.add_argument("run", type=Path, help="the run's folder")
    add_json(status)
    status.set_defaults(command=_status)

    report = commands.add_parser("report", help="the run as a page: RUN/report/index.html")
    report.add_argument("run", type=Path, help="the run's folder")
    report.add_argument(
        "--box-from", type=number(0, 1), default=0.8, help="detail score above which a box is drawn (default 0.8)"
    )
    report.add_argument("--pictured", type=whole(0), default=100, help="most studies shown with pictures (default 100)")
    report.add_argument(
        "--against", type=Path, metavar="OTHER", help="another run: which scores moved, what differs (default: none)"
    )
    report.add_argument(
        "--dicom",
        type=Path,
        metavar="DIR",
        help="DICOM SR, SEG and overlays, which identify (default: none)",
    )
    report.add_argument(
        "--dicom-studies", type=whole(1), default=10, help="of this many studies, the highest scores (default 10)"
    )
    report.set_defaults(command=_report)


def _part(text: str) -> tuple[int, int]:
    first, _, last = text.partition("/")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"{text} is no part: I/N wants 1 <= I <= N")
    return int(first), int(last)


def _key(options: argparse.Namespace) -> int:
    from pipeline.pseudonym import make_key

    make_key(options.file)
    print(f"a new pseudonym key is in {options.file}; keep it: whoever loses it can no longer tell who a row is")
    return 0


def _screen(options: argparse.Namespace) -> int:
    from pipeline.config import read_config

    config = read_config(options.config)
    check_textfile(options.prometheus_textfile)
    check_before_start(options, options.weights)
    if options.ranks > 1 and launched_size() == 1:
        return start_ranks(options.ranks, options.given)
    in_hand = watched_over(options)
    world = into_mpi(config.run)  # before anything heavy is loaded
    check_on_root(world, options, options.weights)
    from pipeline.run.plan import Request
    from pipeline.run.run_toml import read_described
    from pipeline.screening import run

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
        textfile=options.prometheus_textfile,
    )
    summary = run(world, request, begun=log_to_file, in_hand=in_hand)
    if summary is not None and options.json:
        networks = read_described(options.out).networks
        print(as_json({**asdict(summary), "networks": networks, "out": str(options.out), "notice": NOTICE}))
    elif summary is not None:
        print(table(summary.by_status, summary.by_reason))
        print(
            f"{summary.n_studies} studies of {summary.n_files} files; tables in {options.out}, to be seen in report/. {NOTICE}"
        )
        for network in read_described(options.out).networks:
            print(f"{network.column}: {network.meaning or f'probability of {network.positive}'}")
        if summary.by_reason:
            print("What each reason means, and its cure: docs/reasons.md")
    return 0


def _index(options: argparse.Namespace) -> int:
    from pipeline.config import read_config

    config = read_config(options.config)
    check_before_start(options)
    if options.ranks > 1 and launched_size() == 1:
        return start_ranks(options.ranks, options.given)
    watched_over(options)
    world = into_mpi(config.run)  # before anything heavy is loaded
    check_on_root(world, options)
    from pipeline.screening import index_only

    heading = index_only(world, options.archive, options.out, config, options.key_file)
    if heading is not None:
        print(f"{heading.n_files} files, {heading.n_studies} studies, {heading.n_ready} to screen; manifest in {options.out}")
        if options.explain:
            from pipeline.run.explain import explain

            print("\n".join(explain(options.out, options.explain)))
    return 0


def _gather(options: argparse.Namespace) -> int:
    from pipeline.screening import gather_run

    summary = gather_run(options.run)
    print(summary.digest if options.digest else table(summary.by_status, summary.by_reason))
    return 0


def _status(options: argparse.Namespace) -> int:
    import msgspec

    from pipeline.run.run_toml import read_described
    from pipeline.run.status import read_status

    status = read_status(options.run)
    if options.json:
        networks = [msgspec.to_builtins(network) for network in read_described(options.run).networks]
        print(as_json({**asdict(status), "n_open": status.n_open, "networks": networks}))
        return 0
    print(f"{status.n_done} of {status.n_studies} studies have their record; {status.n_open} are open")
    print(table(status.by_status, {}))
    if status.rate_per_s:
        print(f"{status.rate_per_s:.2f} studies/s lately, {status.n_open / status.rate_per_s:,.0f} s left at that rate")
    print(f"attempt {status.attempt}; {f'held by {status.holder}' if status.holder else 'nobody is working on it'}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from pipeline.report import Options, write_report

    wanted = Options(box_from=options.box_from, pictured=options.pictured, against=options.against)
    print(f"{write_report(options.run, wanted)}. {NOTICE}")
    if options.dicom:
        from pipeline.report.dicom import write_dicom

        done = write_dicom(options.run, options.dicom, studies=options.dicom_studies, box_from=options.box_from)
        print(f"{done.n_objects} DICOM objects of {done.n_studies} studies in {options.dicom}; {done.n_left_out} left out")
        print("They carry the patients' identity as the originals do: keep them where the archive is kept.")
    return 0
