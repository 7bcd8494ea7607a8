"""`loaded_before_mpi.py MODULES drenet ARGUMENTS...`, or `python`, or `leg`: which of MODULES are loaded as MPI is entered.

It is drenet's command that is looked at, or `pipeline.screen`, or a job of submitit's.
"""

import builtins
import os
import sys

MODULES = set(sys.argv[1].split(","))
load = builtins.__import__


def looking(name, *arguments, **named):
    if name == "mpi4py" and "mpi4py" not in sys.modules:
        print("loaded before MPI:", sorted(MODULES & sys.modules.keys()), flush=True)
        raise SystemExit(0)
    return load(name, *arguments, **named)


def drenet():
    from pipeline.cli import main

    sys.exit(main(sys.argv[3:]))


def python():
    import pipeline

    return pipeline.screen


def leg():
    os.environ["SLURM_JOB_ID"] = "1"
    from pipeline.submission.executor import Leg

    Leg("A", ("W",), "R", None, None, 2, 0)()


builtins.__import__ = looking
{"drenet": drenet, "python": python, "leg": leg}[sys.argv[2]]()
