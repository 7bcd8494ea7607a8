"""`answer_requests.py MODULE...`: to each list of arguments on stdin drenet's (exit code, words, which modules are loaded)."""

import contextlib
import io
import json
import sys

from pipeline.cli import main

for arguments in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, said.getvalue(), sorted(set(sys.argv[1:]) & sys.modules.keys())]))
