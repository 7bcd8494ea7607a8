"""`end_over_a_study.py JOURNAL CODE`: a watched rank ends by itself with CODE, a study in hand."""

import sys
from pathlib import Path

from pipeline.mpi.watcher import watched

in_hand = watched()
in_hand(Path(sys.argv[1]), b"x\n")
sys.exit(int(sys.argv[2]))
