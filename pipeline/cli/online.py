"""serve: single studies, over HTTP."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from pipeline.cli.shared import add_weights, number, whole
from pipeline.errors import ConfigurationError
from pipeline.pseudonym import key_of
from pipeline.records import NOTICE
from pipeline.run.beforehand import check_key, check_weights
from pipeline.run.weights import check_names


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    serve = commands.add_parser("serve", help="answer single studies over HTTP: a page, an API; extra [serve]")
    add_weights(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1; others need a token)")
    serve.add_argument("--port", type=whole(0, 65535), default=8080, help="(default 8080; 0: any that is free)")
    serve.add_argument("--config", type=Path, help="TOML; see configs/ (default: the paper's choices, configs/paper.toml)")
    serve.add_argument("--key-file", type=Path, help="pseudonym key (default: $DRENET_KEY_FILE, ~/.config/drenet/)")
    serve.add_argument("--token-file", type=Path, help="a secret that every request must bear; mode 0600 (default: none)")
    serve.add_argument("--spool", type=Path, default=Path("drenet-spool"), help="folder for queue, uploads and answers")
    serve.add_argument("--keep-hours", type=number(0.001, 8760), default=24.0, help="answers are deleted after (default 24)")
    serve.add_argument("--workers", type=whole(1, 64), default=1, help="processes that screen (default 1)")
    serve.add_argument("--max-mb", type=whole(1), default=4096, help="largest upload (default 4096)")
    serve.add_argument("--max-files", type=whole(1), default=20_000, help="most files of an upload (default 20000)")
    serve.add_argument("--max-queued", type=whole(1), default=200, help="most uploads that wait (default 200)")
    serve.add_argument("--upload-s", type=number(1, 86400), default=3600.0, help="longest upload (default 3600)")
    serve.add_argument("--study-s", type=number(1, 86400), default=600.0, help="longest screening of an upload (default 600)")
    serve.add_argument("--settle-s", type=number(0.1, 86400), default=60.0, help="a PACS's study is whole after such a pause")
    serve.add_argument("--return-to", default="", metavar="URL", help="DICOMweb address that gets a PACS's SR and SEG")
    serve.add_argument("--dimse", type=whole(0, 65535), default=0, metavar="PORT", help="a DICOM node too; extra [dimse]")
    serve.add_argument("--caller", action="append", default=[], metavar="AET", help="AE title that may send; may repeat")
    serve.set_defaults(command=_serve)


def _serve(options: argparse.Namespace) -> int:
    check_names(options.weights)
    for one in options.weights:
        check_weights(one.path)
    check_key(options.key_file)
    from pipeline.config import read_config
    from pipeline.server.logs import log_json
    from pipeline.server.settings import Settings, read_token

    read_config(options.config)
    key_of(options.key_file)  # made before workers ask for it together
    settings = Settings(
        weights=tuple(one.absolute() for one in options.weights),
        spool=options.spool.absolute(),
        host=options.host,
        port=options.port,
        config=options.config.absolute() if options.config else None,
        key_file=options.key_file.absolute() if options.key_file else None,
        token=read_token(options.token_file),
        keep_hours=options.keep_hours,
        workers=options.workers,
        max_bytes=options.max_mb << 20,
        max_files=options.max_files,
        max_queued=options.max_queued,
        upload_s=options.upload_s,
        study_s=options.study_s,
        settle_s=options.settle_s,
        return_to=options.return_to,
        dimse_port=options.dimse,
        callers=tuple(options.caller),
    )
    try:
        from pipeline.server.serve import serve
    except ImportError as error:
        raise ConfigurationError("the server needs: pip install 'drenet-pipeline[serve]'") from error
    log_json(logging.INFO)
    serve(settings, lambda address: print(f"drenet answers at {address} {NOTICE}", flush=True))
    return 0
