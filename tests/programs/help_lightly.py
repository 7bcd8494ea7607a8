"""`help_lightly.py MODULE...`: print drenet's help, then which of the modules that loaded."""

import contextlib
import sys

from pipeline.cli import main

with contextlib.suppress(SystemExit):
    main(["--help"])
print([name for name in sys.argv[1:] if name in sys.modules])
