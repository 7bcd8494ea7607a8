"""find, export: what lies behind the keys of a run's tables, for who may see the archive, and chosen studies to hand on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.shared import add_json, as_json, whole
from pipeline.records import NOTICE

if TYPE_CHECKING:
    from pipeline.run.find import Origin


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Their arguments."""
    find = commands.add_parser("find", help="from a key of the tables to the files and UIDs behind it, and back")
    find.add_argument("run", type=Path, help="the run's folder, with its private/")
    find.add_argument(
        "keys",
        nargs="+",
        metavar="KEY",
        help="key of a study, series or patient, or KEY/SLICE_INDEX; a UID; a path, in a container CONTAINER!/MEMBER",
    )
    add_json(find)
    find.set_defaults(command=_find)

    export = commands.add_parser("export", help="chosen studies in a folder of their own: rows, results, pictures")
    export.add_argument("run", type=Path, help="the run's folder")
    export.add_argument("keys", nargs="*", metavar="STUDY_KEY", help="studies to write; none: the highest scores")
    export.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where to, a new folder")
    export.add_argument("--top", type=whole(1), default=10, help="without keys: so many studies")
    export.add_argument("--dicom", action="store_true", help="with DICOM SR, SEG and overlays, which carry patients' identity")
    export.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> int:
    from pipeline.report.export import export

    done = export(options.run, options.to, options.keys, top=options.top, dicom=options.dicom)
    print(
        f"{done.n_studies} studies in {options.to}, {done.n_pictured} with pictures, {done.n_objects} DICOM objects. {NOTICE}"
    )
    if options.dicom:
        print("The DICOM objects carry the patients' identity as the originals do: keep them where the archive is kept.")
    return 0


def _find(options: argparse.Namespace) -> int:
    from pipeline.run.find import find

    found = {key: find(options.run, key) for key in options.keys}
    if options.json:
        print(as_json(found))
        return 0
    for key, images in found.items():
        print(f"{key}: {len(images)} image{'' if len(images) == 1 else 's'}")
        for one in images:
            print(f"  {_line(one)}")
    print("This identifies patients: keep it where the archive is kept.")
    return 0


def _line(one: Origin) -> str:
    """One image on one line: what the tables call it, then what the archive does."""
    index = "" if one.slice_index is None else f"/{one.slice_index}"
    keys = f"study {one.study_key}, series {one.series_key or '(no candidate)'}{index}, patient {one.patient_key}"
    file = f"{one.path}!/{one.member}" if one.member else one.path
    uids = f"instance {one.sop_uid or 'none'}, series {one.series_uid}, study {one.study_uid}"
    return f"{keys}: {file} (frame {one.frame}), {uids}"
