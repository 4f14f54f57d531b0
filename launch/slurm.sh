#!/usr/bin/env bash
# Submits a run to Slurm. It is queued again, and continues, when it is preempted or reaches its time limit.
#
#   launch/slurm.sh --nodes 2 --gpus-per-node 8 --time 24:00:00 -- --config configs/pretrain.py --workdir runs/pretrain
#
# The arguments after -- are those of python -m beit_jax.train, the same in every process: one process for each GPU, or
# for each node without GPUs. All nodes must see this folder, and the workdir or its bucket (gs://BUCKET/pretrain; the
# nodes need the extra gcs, and credentials in your home or in GOOGLE_APPLICATION_CREDENTIALS, whose account has
# roles/storage.objectUser and roles/storage.legacyBucketReader). scancel JOB ends the run for good.
#
#   --name NAME           of the job (beit_jax)
#   --nodes N             (1)
#   --gpus-per-node N     (0)
#   --cpus-per-task N     for each process (the cluster's default)
#   --time LIMIT          such as 24:00:00 (the partition's default)
#   --partition NAME, --account NAME   (the cluster's default)
#   --grace SECONDS       before the time limit, to save and be queued again (120)
#   --logs FOLDER         for NAME-JOB.log (runs/slurm)
#   --module NAME         what to run (beit_jax.train)
#   --dry-run             print the commands
#
# For other options, set variables of sbatch before the command: SBATCH_QOS=..., SBATCH_CONSTRAINT=...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name=beit_jax nodes=1 gpus_per_node=0 cpus_per_task="" time="" partition="" account="" grace=120 logs=runs/slurm
module=beit_jax.train
parse "name nodes gpus_per_node cpus_per_task time partition account grace logs module" "" "$@"
word='[A-Za-z0-9_][A-Za-z0-9_.,-]*'
expect --name "$name" "$word" "letters, digits, hyphens"
expect_number --nodes "$nodes" 1
expect_number --gpus-per-node "$gpus_per_node" 0
expect_number --grace "$grace" 1
expect_training "$module"

# Under Slurm, JAX uses one GPU in each process: as many processes as GPUs.
flags=(--job-name "$name" --nodes "$nodes" --ntasks-per-node "$((gpus_per_node > 0 ? gpus_per_node : 1))")
if [ "$gpus_per_node" -gt 0 ]; then flags+=(--gpus-per-node "$gpus_per_node"); fi
add --cpus-per-task "$cpus_per_task" '[1-9][0-9]*' "a whole number of at least 1"
add --time "$time" '[0-9]+(-[0-9]+)?(:[0-9]+){0,2}' "a time such as 24:00:00"
add --partition "$partition" "$word" "letters, digits, hyphens"
add --account "$account" "$word" "letters, digits, hyphens"
run mkdir -p "$logs" # without this folder Slurm ends the job without a message
run sbatch "${flags[@]}" --signal "B:TERM@$grace" --output "$logs/%x-%j.log" \
  launch/slurm.sbatch "${PYTHON:-python}" -m "$module" "${rest[@]}"
