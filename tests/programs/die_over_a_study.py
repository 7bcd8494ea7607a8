"""`die_over_a_study.py COUNTS JOURNAL SIGNAL N`: a watched rank dies of SIGNAL, the kernel having killed N for memory."""

import os
import signal
import sys
import time
from pathlib import Path

from pipeline.mpi import watcher

counts = Path(sys.argv[1])
watcher.KERNEL_COUNTS = counts
counts.write_text("pgfault 7\noom_kill 3\n")
in_hand = watcher.watched()
in_hand(Path(sys.argv[2]), b"x\n")
time.sleep(0.3)
counts.write_text(f"oom_kill {3 + int(sys.argv[4])}\n")
number = signal.Signals[sys.argv[3]]
if number == signal.SIGTERM:
    signal.signal(number, signal.SIG_DFL)
os.kill(os.getpid(), number)
