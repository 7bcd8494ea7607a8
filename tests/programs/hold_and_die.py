"""`hold_and_die.py FOLDER`: takes the lock of a run's folder, and ends as a kill would end it."""

import os
import sys
from pathlib import Path

from pipeline.run.lock import hold

held = hold(Path(sys.argv[1]))
os._exit(1)
