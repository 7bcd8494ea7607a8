"""The way onto a cluster: resources, job scripts, submitit; neither torch nor MPI is imported here.

From one [cluster] section of the configuration come sbatch, yhbatch and submitit jobs alike.
"""

from pipeline.submission.executor import submit
from pipeline.submission.queue import submit_script
from pipeline.submission.script import job_script

__all__ = ["job_script", "submit", "submit_script"]
