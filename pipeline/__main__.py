"""`python -m pipeline` is `drenet`."""

import os
import signal
import sys

INTERRUPTED = signal.getsignal(signal.SIGINT)
for number in (signal.SIGUSR1, signal.SIGTERM, *([] if INTERRUPTED == signal.SIG_IGN else [signal.SIGINT])):
    signal.signal(number, lambda *_: os._exit(75))  # asked to stop before anything has begun

from pipeline.cli import main  # noqa: E402  loading it takes a while

signal.signal(signal.SIGINT, INTERRUPTED)

if __name__ == "__main__":
    sys.exit(main())
