"""`python -m pipeline` is `drenet`."""

import os
import signal
import sys

from pipeline.mpi.launched import is_launched

INTERRUPTED = signal.getsignal(signal.SIGINT)
STOP = signal.SIG_DFL if is_launched() else lambda *_: os._exit(75)
"""Asked to stop before anything has begun. A rank that exited would leave those waiting that it has not met: it dies."""
for number in (signal.SIGUSR1, signal.SIGTERM, *([] if INTERRUPTED == signal.SIG_IGN else [signal.SIGINT])):
    signal.signal(number, STOP)

from pipeline.cli import main  # noqa: E402  loading it takes a while

signal.signal(signal.SIGINT, INTERRUPTED)

if __name__ == "__main__":
    sys.exit(main())
