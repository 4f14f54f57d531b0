#!/usr/bin/env bash
# Cloud TPU VMs and pod slices, one or several, as queued resources.
#
#   launch/tpu_vm.sh create --name beit --zone us-central2-b --type v4-32 --spot
#   launch/tpu_vm.sh wait   ...                until the machines are ready
#   launch/tpu_vm.sh sync   ...                copies the tracked files, as they are now, to every worker; installs
#   launch/tpu_vm.sh run    ... -- --config configs/pretrain.py --workdir gs://BUCKET/pretrain
#   launch/tpu_vm.sh logs   ...                follows the log; Ctrl-C does not end the run
#   launch/tpu_vm.sh stop   ...                sends SIGTERM, and waits until the run has saved
#   launch/tpu_vm.sh ssh    ... -- COMMAND     runs a command on every worker
#   launch/tpu_vm.sh delete ...                deletes the machines and their disks
#
# where ... is --name and --zone, as in the first line.
# A run is detached: it continues when the connection is lost. Use the same `run` again to continue after a stop, or on
# new machines. All workers must see the workdir: a bucket, or a folder that they mount. The machines' service account
# needs roles/storage.objectUser and roles/storage.legacyBucketReader on the bucket. For TPU7x see gke_xpk.sh.
#
#   --name NAME --zone ZONE   of the queued resource; always required
#   --project PROJECT         (that of gcloud config)
#   --type TYPE               for create: v4-32, v5litepod-16, v5p-32, v6e-16, ...
#   --slices N                for create: slices of that type, connected by the data-centre network (1)
#   --runtime VERSION         for create (the one for JAX on that type)
#   --service-account EMAIL   for create: whose rights the machines have (Compute Engine's default account)
#   --spot                    for create: cheaper, may be preempted
#   --worker N|all            for logs (0)
#   --module NAME             for run (beit_jax.train)
#   --dry-run                 print the commands
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name="" zone="" project="" type="" slices=1 runtime="" service_account="" spot=0 worker=0 module=beit_jax.train
action=${1:-}
case "$action" in
  create | wait | sync | run | logs | stop | ssh | delete) shift ;;
  -h | --help) usage ;;
  *) fail "found '$action', expected create, wait, sync, run, logs, stop, ssh or delete; see $0 --help" ;;
esac
parse "name zone project type slices runtime service_account worker module" "spot" "$@"
expect --name "$name" '[a-z]([-a-z0-9]{0,61}[a-z0-9])?' "lower-case letters, digits and hyphens, such as beit"
expect --zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone such as us-central2-b"
flags=(--zone "$zone")
add --project "$project" '[a-z][-a-z0-9.:]*' "a project such as my-project"

queued() { # queued SUBCOMMAND ARGUMENTS...
  local subcommand=$1
  shift
  run gcloud compute tpus queued-resources "$subcommand" "${flags[@]}" "$@"
}

on_all_workers() { # runs a command on every worker of every slice
  queued ssh "$name" --node all --worker all --command "$1"
}

case "$action" in
  create)
    expect --type "$type" 'v[0-9][a-z]*-[0-9]+' "a type such as v4-32"
    expect_number --slices "$slices" 1
    if [ -z "$runtime" ]; then
      case "$type" in
        v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
        v5p-*) runtime=v2-alpha-tpuv5 ;;
        v6e-*) runtime=v2-alpha-tpuv6e ;;
        *) runtime=tpu-ubuntu2204-base ;;
      esac
    fi
    expect --runtime "$runtime" '[a-z][-a-z0-9.]*' "a runtime version such as tpu-ubuntu2204-base"
    nodes=(--node-id "$name")
    if [ "$slices" -gt 1 ]; then nodes=(--node-count "$slices"); fi
    if [ "$spot" = 1 ]; then nodes+=(--spot); fi
    add --service-account "$service_account" '[-a-z0-9.]+@[-a-z0-9.]+' "NAME@PROJECT.iam.gserviceaccount.com"
    queued create "$name" --accelerator-type "$type" --runtime-version "$runtime" "${nodes[@]}"
    ;;
  wait)
    while :; do
      state=$(queued describe "$name" --format 'value(state.state)')
      echo "$state"
      case "$state" in
        ACTIVE) break ;;
        FAILED | SUSPENDING | SUSPENDED | DELETING)
          echo "error: $name is $state; delete it, and create it again" >&2
          exit 1
          ;;
      esac
      [ "$dry_run" = 0 ] || break
      sleep 30
    done
    ;;
  sync)
    run mkdir -p build
    # `git stash create` makes a commit of the changed files and leaves them as they are; without changes it prints nothing.
    archive='git archive --format=tar.gz --output build/beit_jax.tar.gz'
    run bash -c "commit=\$(git stash create) && $archive \"\${commit:-HEAD}\""
    queued scp build/beit_jax.tar.gz "$name:" --node all --worker all
    # The images' own Python is too old. The folder runs stays: it may hold checkpoints.
    unpack="mkdir -p beit_jax && find beit_jax -mindepth 1 -maxdepth 1 ! -name runs -exec rm -rf {} +"
    unpack="$unpack && tar -xzf beit_jax.tar.gz -C beit_jax"
    install="python3 -m pip install --quiet --user uv && uv=\$HOME/.local/bin/uv"
    install="$install && \$uv venv --quiet --allow-existing --python 3.12 beit_jax_venv"
    install="$install && \$uv pip install --quiet --python ./beit_jax_venv --editable './beit_jax[data,gcs,tpu]'"
    on_all_workers "$unpack && $install"
    ;;
  run)
    expect_training "$module"
    # shellcheck disable=SC2016
    alive='[ -e beit_jax.pid ] && kill -0 "$(cat beit_jax.pid)" 2>/dev/null'
    refuse="if $alive; then echo 'a run is in progress here; stop it first' >&2; exit 1; fi"
    start="setsid ../beit_jax_venv/bin/python -m $(quote "$module" "${rest[@]}") >>../beit_jax.log 2>&1 </dev/null"
    on_all_workers "$refuse; cd beit_jax && { $start & echo \$! >../beit_jax.pid; }"
    ;;
  logs)
    expect --worker "$worker" '[0-9]{1,5}|all' "the number of a worker, or all"
    queued ssh "$name" --worker "$worker" --command 'tail -n 100 -F beit_jax.log'
    ;;
  stop)
    # shellcheck disable=SC2016
    on_all_workers 'pid=$(cat beit_jax.pid) && kill -TERM "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 1; done'
    ;;
  ssh)
    [ ${#rest[@]} -gt 0 ] || fail "no command; expected -- COMMAND"
    on_all_workers "${rest[*]}"
    ;;
  delete) queued delete "$name" --force --quiet ;;
esac
