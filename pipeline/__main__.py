"""`python -m pipeline` is `drenet`."""

import os
import signal
import sys

for number in (signal.SIGUSR1, signal.SIGTERM):  # asked to stop before anything has begun
    signal.signal(number, lambda *_: os._exit(75))

from pipeline.cli import main  # noqa: E402  loading it takes a while

if __name__ == "__main__":
    sys.exit(main())
