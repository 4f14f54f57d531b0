#!/usr/bin/env bash
# TPU slices of a GKE cluster, through xpk (pip install xpk), with the image of launch/Dockerfile.
#
#   launch/gke_xpk.sh image  --image registry.example/beit_jax:v1      builds it from this checkout, and pushes it
#   launch/gke_xpk.sh create --cluster tpus --name beit --type v6e-16 --image registry.example/beit_jax:v1 \
#       -- --config configs/pretrain.py --workdir gs://BUCKET/pretrain
#   launch/gke_xpk.sh list   --cluster tpus
#   launch/gke_xpk.sh logs   --cluster tpus --name beit      of the first worker of each slice
#   launch/gke_xpk.sh delete --cluster tpus --name beit      the run saves; create it again to continue
#
# A workload that is preempted, or loses a machine, is started again and continues. All pods must see the workdir: a
# bucket, or a storage that `xpk storage attach` has attached to the cluster. The service account of the nodes needs
# roles/storage.objectUser and roles/storage.legacyBucketReader on the bucket.
#
#   --cluster NAME    of the cluster
#   --name NAME       of the workload
#   --type TYPE       of a slice, such as v6e-16
#   --slices N        (1)
#   --image IMAGE     with a tag
#   --storage NAME    to mount, of the cluster (none)
#   --priority LEVEL  very-low, low, medium, high, very-high (medium)
#   --restarts N      at most (50)
#   --grace SECONDS   between SIGTERM and SIGKILL: time to save (300)
#   --project PROJECT --zone ZONE   (those of gcloud config)
#   --module NAME     what to run (beit_jax.train)
#   --dry-run         print the commands
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cluster="" name="" type="" slices=1 image="" storage="" priority=medium restarts=50 grace=300 project="" zone=""
module=beit_jax.train
action=${1:-}
case "$action" in
  image | create | list | logs | delete) shift ;;
  -h | --help) usage ;;
  *) fail "found '$action', expected image, create, list, logs or delete; see $0 --help" ;;
esac
parse "cluster name type slices image storage priority restarts grace project zone module" "" "$@"

word='[a-z]([-a-z0-9]{0,38}[a-z0-9])?'
letters="lower-case letters, digits and hyphens"
if [ "$action" != image ]; then expect --cluster "$cluster" "$word" "$letters, such as tpus"; fi
case "$action" in create | logs | delete) expect --name "$name" "$word" "$letters, such as beit" ;; esac
case "$action" in
  image | create) expect --image "$image" '[a-z0-9][a-z0-9._/:-]*:[A-Za-z0-9._-]+' "REGISTRY/NAME:TAG" ;;
esac
flags=(--cluster "$cluster")
add --project "$project" '[a-z][-a-z0-9.:]*' "a project such as my-project"
add --zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone such as us-central2-b"

workload() { # workload SUBCOMMAND ARGUMENTS...
  local subcommand=$1
  shift
  run xpk workload "$subcommand" "${flags[@]}" "$@"
}

case "$action" in
  image)
    run docker build --file launch/Dockerfile --build-arg EXTRAS=data,gcs,tpu --tag "$image" .
    run docker push "$image"
    ;;
  create)
    expect --type "$type" '[a-z0-9][-a-z0-9]*' "a type such as v6e-16"
    expect --priority "$priority" '(very-)?(low|high)|medium' "very-low, low, medium, high or very-high"
    expect_number --slices "$slices" 1
    expect_number --restarts "$restarts" 0
    expect_number --grace "$grace" 1
    expect_training "$module"
    add --storage "$storage" "$word" "$letters, such as runs"
    [[ "${rest[*]}" != *$'\n'* ]] || fail "an argument holds a line break; expected a command of one line"
    # A process that has lost the others ends with status 1; a mistake in a config ends with 2 and is not repeated.
    workload create --workload "$name" --tpu-type "$type" --num-slices "$slices" --docker-image "$image" \
      --priority "$priority" --max-restarts "$restarts" --restart-on-exit-codes 1 \
      --termination-grace-period-seconds "$grace" \
      --command "exec launch/restartable.sh $(quote python -m "$module" "${rest[@]}")"
    ;;
  list) workload list ;;
  logs)
    workload list --filter-by-job "$name" # also points kubectl to the cluster
    run kubectl logs --follow --tail 100 --prefix --max-log-requests 64 \
      --selector "xpk.google.com/workload=$name,batch.kubernetes.io/job-completion-index=0"
    ;;
  delete) workload delete --workload "$name" --force ;;
esac
