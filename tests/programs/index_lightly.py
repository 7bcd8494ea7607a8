"""`index_lightly.py ARCHIVE FOLDER`: index into FOLDER, and print which heavy modules that loaded."""

import sys
from pathlib import Path

from pipeline.config import Config
from pipeline.mpi.world import Alone
from pipeline.run.index import Private, index

archive, folder = map(Path, sys.argv[1:])
folder.mkdir()
index(Alone(), archive, Private(folder, bytes(32)), Config())
print([name for name in ("torch", "pydicom") if name in sys.modules])
