#!/usr/bin/env bash
# Runs a command for a scheduler: ends with status 42 if the command was preempted and ended with status 0.
#
#   launch/restartable.sh python -m beit_jax.train --config configs/pretrain.py --workdir /mnt/runs/pretrain
#
# On SIGTERM, training saves and ends with status 0. A scheduler takes 0 for the end of the work, and would not start a
# preempted run again. On 42, xpk restarts it and slurm.sbatch queues it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  -h | --help) usage ;;
  "") fail "no command; see $0 --help" ;;
esac
status=0
run_with_sigterm "$@" || status=$?
if [ "$signals" -gt 0 ] && [ "$status" = 0 ]; then status=42; fi
exit "$status"
