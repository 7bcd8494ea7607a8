"""`struck_before_joining.py SIGNAL`: rank 1 is struck before it joins the others."""

import os
import signal
import sys

import pipeline.__main__  # noqa: F401  which sets what the signal does
from pipeline.mpi.launch import join
from pipeline.mpi.launched import launched_rank

if launched_rank() == 1:
    os.kill(os.getpid(), signal.Signals[sys.argv[1]])
join()
