set -u
export OPENBLAS_NUM_THREADS=$OMP_NUM_THREADS MKL_NUM_THREADS=$OMP_NUM_THREADS
job=${SLURM_JOB_ID:-0}

if ! command -v "${drenet[0]}" >/dev/null; then
    echo "drenet: there is no ${drenet[0]} in this job's PATH: activate the environment that it is installed in, by a line such as" >&2
    echo "'source /project/venv/bin/activate' above the dashes of this script, or in [cluster] setup; or name it whole in command" >&2
    exit 2
fi

# When this allocation ends: no study is begun that cannot end before it.
if [ -z "${SLURM_JOB_END_TIME:-}" ] && ends=$("$queue" -h -j "$job" -o %e 2>/dev/null); then
    SLURM_JOB_END_TIME=$(date -d "$ends" +%s 2>/dev/null) && export SLURM_JOB_END_TIME
fi

on_nodes=(srun --ntasks-per-node=1 --mpi=none)
command -v yhrun >/dev/null && on_nodes[0]=yhrun
if [ -n "$scratch" ]; then
    folder="$scratch/drenet-$job"
    "${on_nodes[@]}" mkdir -p "$folder"
    export TMPDIR="$folder"
    trap '"${on_nodes[@]}" rm -rf "$folder"' EXIT
fi

# Slurm tells this shell alone (--signal=B:), or this shell's own clock does; the launcher passes it on, and the ranks finish their study and stop with 75.
child='' caught=no stopping=no
trap 'caught=yes stopping=yes; [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null' USR1 TERM

if [ -n "$drain_s" ] && [ -n "${SLURM_JOB_END_TIME:-}" ]; then
    (sleep $((SLURM_JOB_END_TIME - drain_s - $(date +%s))) && kill -USR1 $$) &
fi

# Shared memory of a node that dead ranks of this user left and nobody has mapped; a younger piece may be in the making.
# shellcheck disable=SC2016 # expanded on the nodes
left='find /dev/shm -maxdepth 1 -user "$(id -un)" -type f ! -newermt "10 seconds ago" \( -name "mpich_shm_*" -o -name "vader_segment.*" \
    -o -name "sm_segment.*" -o -name "ucx_shm_posix_*" -o -name "torch_*" \) 2>/dev/null | while read -r piece; do
    grep -qsF "$piece" /proc/[0-9]*/maps || rm -f "$piece"; done'
clear_memory() { "${on_nodes[@]}" --immediate=10 sh -c "$left" 2>/dev/null; }

run_once() {
    "${launch[@]}" "${drenet[@]}" screen "$@" &
    child=$!
    # A caught signal ends `wait` too, while the ranks are still at work.
    while wait "$child"; code=$?; [ "$caught" = yes ] && [ "$code" -gt 128 ]; do caught=no; done
    child=''
}

# 0 complete, 1 stopped by itself, 2 wrong request, 74 storage, 75 stopped in time; anything else: a rank or the launcher died.
tries=0
while :; do
    run_once "$@" "${part[@]}"
    case $code in 0 | 1 | 2 | 74 | 75) break ;; esac
    if [ "$stopping" = yes ]; then
        code=75
        break
    fi
    clear_memory
    tries=$((tries + 1))
    [ "$tries" -gt "$relaunches" ] && break
    echo "drenet: the ranks ended with code $code: started again within job $job, try $tries of $relaunches" >&2
done

clear_memory
if [ -n "${DRENET_CHAIN:-}" ]; then
    # One job of a chain: the next one goes on. Whatever else than 75 ends this one ends the chain.
    [ "$code" -ne 75 ] && "$cancel" --state=PENDING --name="$DRENET_CHAIN"
elif [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$requeues" ]; then
    "$control" requeue "$job"
fi
exit "$code"
