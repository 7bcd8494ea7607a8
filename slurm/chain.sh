#!/usr/bin/env bash
# A chain of jobs over time limits: so many jobs of one script, each after the one before. A job that is stopped before its end
# leaves the rest to the next; any other end ends the chain. For sites where jobs may not be requeued.
#   slurm/chain.sh 3 slurm/screen.sbatch ARCHIVE --weights WEIGHTS --out RUN
set -euo pipefail
legs=$1
shift
submit=sbatch
command -v yhbatch >/dev/null && submit=yhbatch
DRENET_CHAIN="drenet-chain-$(date +%s)-$$"
export DRENET_CHAIN
before=()
for ((leg = 1; leg <= legs; leg++)); do
    said=$("$submit" --job-name="$DRENET_CHAIN" "${before[@]}" "$@")
    echo "$said"
    before=(--dependency=afterany:"${said##* }")
done
