#!/usr/bin/env bash
# Trains with several processes on this machine, which communicate over loopback.
#
#   launch/local.sh --processes 2 -- --config configs/pretrain.py:runlocal --workdir runs/try
#
# The arguments after -- are those of python -m beit_jax.train, the same in every process. The output of process N is
# appended to LOGS/processN.log; that of process 0 is shown too. SIGTERM and SIGINT are forwarded to all processes. When
# one process fails, the others are stopped, and this script ends with its status.
#
#   --processes N          how many (2)
#   --gpus-per-process N   process 0 uses the first N GPUs, process 1 the next N, ... (every process sees all)
#   --logs FOLDER          (runs/logs)
#   --port N               of process 0, to which all connect (a free one)
#   --grace SECONDS        from a failure until the other processes are killed (30)
#   --module NAME          what to run (beit_jax.train)
#   --dry-run              print the commands
#
# JAX_NUM_CPU_DEVICES=4 launch/local.sh ... gives every process four simulated devices; PYTHON=... is the interpreter.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

processes=2 gpus_per_process=0 logs=runs/logs port="" grace=30 module=beit_jax.train
parse "processes gpus_per_process logs port grace module" "" "$@"
expect_number --processes "$processes" 1
expect_number --gpus-per-process "$gpus_per_process" 0
expect_number --grace "$grace" 0
expect_training "$module"
python=${PYTHON:-python}
if [ -z "$port" ]; then
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
expect_number --port "$port" 1

build_command() { # of process $1, in `command`
  command=(env "BEIT_JAX_COORDINATOR=127.0.0.1:$port" "BEIT_JAX_PROCESS_COUNT=$processes" "BEIT_JAX_PROCESS_INDEX=$1")
  if [ "$gpus_per_process" -gt 0 ]; then
    command+=("CUDA_VISIBLE_DEVICES=$(seq -s, $(($1 * gpus_per_process)) $((($1 + 1) * gpus_per_process - 1)))")
  fi
  command+=("$python" -m "$module" "${rest[@]}")
}

if [ "$dry_run" = 1 ]; then
  for ((i = 0; i < processes; i++)); do
    build_command "$i"
    printf '%s >>%s 2>&1\n' "$(quote "${command[@]}")" "$(quote "$logs/process$i.log")"
  done
  exit
fi

pids=()    # of the running processes; empty where one has ended
received="" # the last signal

forward() { # a signal to all processes and their children
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do
    [ -z "$pid" ] || kill -s "$1" -- "-$pid" 2>/dev/null || true
  done
}

mkdir -p "$logs"
: >>"$logs/process0.log"
tail -n 0 -f "$logs/process0.log" &
viewer=$!
trap 'sleep 0.3; kill "$viewer" 2>/dev/null' EXIT
trap 'received=TERM; forward TERM' TERM
trap 'received=INT; forward INT' INT

set -m # a process group each: a process receives SIGINT, and only from this script
for ((i = 0; i < processes; i++)); do
  build_command "$i"
  "${command[@]}" >>"$logs/process$i.log" 2>&1 </dev/null &
  pids[i]=$!
done
set +m
[ -z "$received" ] || forward "$received" # it arrived while the processes were started

running=$processes failure=0
while [ "$running" -gt 0 ]; do
  sleep 0.2 # Bash 3.2 cannot wait for the next process that ends
  for ((i = 0; i < processes; i++)); do
    pid=${pids[i]}
    if [ -z "$pid" ] || kill -0 "$pid" 2>/dev/null; then continue; fi
    status=0
    wait "$pid" 2>/dev/null || status=$?
    pids[i]=""
    running=$((running - 1))
    if [ "$status" != 0 ] && [ "$failure" = 0 ]; then
      failure=$status deadline=$((SECONDS + grace))
      echo "process $i ended with status $status; the end of $logs/process$i.log:" >&2
      tail -n 20 "$logs/process$i.log" >&2
      forward TERM
    fi
  done
  if [ "$failure" != 0 ] && [ "$SECONDS" -ge "$deadline" ]; then forward KILL; fi
done
exit "$failure"
