#!/usr/bin/env bash
# Runs a command for a scheduler: ends with 42 where the command was told to stop, and ended well.
#
#   launch/restartable.sh python -m beit_jax.train --config configs/pretrain.py --workdir /mnt/runs/pretrain
#
# Training that hears SIGTERM saves and ends with 0, which schedulers take for the end of the work: what they preempt,
# and see end in good order, they would not start again. On 42 xpk restarts it, and slurm.sbatch queues it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  -h | --help) usage ;;
  "") fail "no command; see $0 --help" ;;
esac
status=0
until_told "$@" || status=$?
if [ "$told" -gt 0 ] && [ "$status" = 0 ]; then status=42; fi
exit "$status"
