#!/bin/bash
# A job on the nodes of a Slurm allocation, which becomes a Ray cluster for as long as it lasts:
#   sbatch --nodes=4 --gpus-per-node=8 --cpus-per-task=64 jobs/slurm.sh job.yaml [OPTIONS of `sapiens-ray run`]
# Submit it from an environment in which `sapiens-ray` and `ray` are on the path, the same on every node. Input, output,
# checkpoints and HF_HOME lie on storage that all nodes see. A job array is not needed: all nodes share one job.
#
# Two minutes before the time limit the run is stopped, and the job is put back into the queue, where it continues.
# A preempted job, or one whose first node fails, is put back by Slurm itself (--requeue). When another node fails, the
# job goes on without it (--no-kill). `scancel` stops the run for good; submit it again to continue.
#SBATCH --job-name=sapiens-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append

set -euo pipefail

if [ $# -eq 0 ]; then
  echo "usage: sbatch jobs/slurm.sh JOB.yaml [OPTIONS of sapiens-ray run]" >&2
  exit 2
fi

# Jobs of several users may share a node: ports of our own, and a token that only our processes know. Slurm passes the
# environment on to the nodes.
base=$((20000 + SLURM_JOB_ID % 4000 * 10))
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
unset RAY_ADDRESS

cpus=${SLURM_CPUS_PER_TASK:-1}
start=(ray start --block --disable-usage-stats --num-cpus="$cpus")
if [ -n "${SLURM_MEM_PER_NODE:-}" ]; then # in MB; Ray would take a share of the machine, not of what the job has
  start+=(--object-store-memory=$((SLURM_MEM_PER_NODE * 1024 * 1024 * 3 / 10)))
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
on_node() { # NODE COMMAND...: with all that the job has there. Call it in a subshell, which becomes the step: for `kill`
  local node=$1
  shift
  exec srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$node" "$@"
}
addresses=$(on_node "$head" hostname --ip-address)
for ip in $addresses; do # of several, the first that is not IPv6
  case $ip in *:*) ;; *) break ;; esac
done
address=$ip:$base

# Reached through traps only. `ray start --block` ends the processes of its node when it is told to end.
steps=()
# shellcheck disable=SC2329
stop_ray() {
  [ ${#steps[@]} -eq 0 ] || kill "${steps[@]}" 2>/dev/null || true
  wait
}
trap stop_ray EXIT

driver='' again='' signalled=''
# shellcheck disable=SC2329
stop_run() {
  signalled=yes
  [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true
}
trap 'again=yes; stop_run' USR1
trap "again=''; stop_run; [ -n \"\$driver\" ] || exit 143" TERM INT

on_node "$head" "${start[@]}" --head --node-ip-address="$ip" --port="$base" --include-dashboard=false \
  --dashboard-agent-listen-port=$((base + 1)) --ray-client-server-port=$((base + 2)) \
  --temp-dir="/tmp/ray-$SLURM_JOB_ID" &
steps+=($!)
number=3
for node in "${nodes[@]:1}"; do
  on_node "$node" "${start[@]}" --address="$address" --dashboard-agent-listen-port=$((base + number)) &
  steps+=($!)
  number=$((number < 9 ? number + 1 : 3))
done

# The run begins when all nodes have joined, or after five minutes with those that have.
python - "$address" ${#nodes[@]} <<'PYTHON'
import os, sys, time
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
import ray
address, wanted = sys.argv[1], int(sys.argv[2])
end = time.monotonic() + 300
while True:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        break
    except Exception as error:
        if time.monotonic() > end:
            sys.exit(f"the head at {address} does not answer: {error}")
        time.sleep(2)
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted and time.monotonic() < end:
    time.sleep(1)
print(f"{alive} of {wanted} nodes have joined the cluster at {address}", flush=True)
PYTHON

code=143
if [ -z "$again" ]; then
  sapiens-ray run "$@" --address "$address" &
  driver=$!
  signalled=yes
fi
while [ -n "$signalled" ] && [ -n "$driver" ]; do # a signal ends `wait`, not the run
  signalled='' code=0
  wait "$driver" || code=$?
done
if [ -n "$again" ] && [ "$code" -eq 143 ]; then
  echo "stopped before the time limit; requeued to continue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
