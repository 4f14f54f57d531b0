#!/usr/bin/env bash
# Runs a command in a pod of Kubernetes: ends with 42 where the command was told to stop and ended well.
#
#   launch/in_pod.sh python -m beit_jax.train --config configs/pretrain.py --workdir /mnt/runs/pretrain
#
# Training that hears SIGTERM saves and ends with 0, which Kubernetes takes for the end of the work: a pod that is moved
# would never start again. 42 is a status on which xpk restarts the workload.
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
