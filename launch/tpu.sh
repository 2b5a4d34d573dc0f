#!/usr/bin/env bash
# Life cycle of a Cloud TPU slice, from its creation to its deletion.
#
#   launch/tpu.sh create --name=NAME --zone=ZONE --topology=v5e:4x4 [--spot] [--queued]
#                        [--runtime_version=VERSION]
#   launch/tpu.sh setup  --name=NAME --zone=ZONE
#   launch/tpu.sh run    --name=NAME --zone=ZONE --topology=v5e:4x4 [--spot] [--queued]
#                        [--restarts=10] -- --config=configs/coco.py --workdir=gs://BUCKET/coco ...
#   launch/tpu.sh stop   --name=NAME --zone=ZONE
#   launch/tpu.sh logs   --name=NAME --zone=ZONE [--output=runs/logs/NAME]
#   launch/tpu.sh delete --name=NAME --zone=ZONE [--queued]
#
# Each takes --project=PROJECT, and --dry_run to print the commands and run none. --topology is that
# of `pdl_jax plan`: v4, v5e, v5p or v6e and the chips along each axis. --queued waits for capacity
# in the queue. `setup` installs the last commit on every host. The run outlives the connection of
# `run`; another call shows its further output. A preempted slice is recreated and the run resumes;
# a run that fails otherwise is restarted at most --restarts times.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name='' zone='' project='' topology='' runtime_version='' output='' restarts=10
spot=false queued=false
generation='' grid='' chips=0
# Every host has pdl_jax/source/, pdl_jax/venv/ and pdl_jax/run/ in the home directory.
readonly HOST_RUN=(bash pdl_jax/source/launch/host_run.sh --directory=../run)

main() {
  local verb=${1:---help}
  case $verb in
    create | setup | run | stop | logs | delete) shift ;;
    --help) parse_flags '' --help ;;
    *) die "$(quote "$verb") is not create, setup, run, stop, logs or delete; see --help" ;;
  esac
  parse_flags 'name zone project topology runtime_version output restarts spot queued' "$@"
  require name zone
  require_name "$name"
  if [[ $verb == create || $verb == run ]]; then
    require topology
    parse_topology "$topology"
    [[ $generation != tpu7x ]] || die 'tpu7x is available through GKE only: see launch/gke.sh'
  fi
  [[ $verb != run ]] || require_program_flags
  require_number restarts
  "${verb}_tpu"
}

# tpu GROUP VERB ARGUMENT...: runs a command of `gcloud compute tpus`.
tpu() {
  local command=(gcloud compute tpus "$@" --zone="$zone")
  [[ -z $project ]] || command+=(--project="$project")
  run "${command[@]}"
}

on_all_hosts() {
  tpu tpu-vm ssh "$name" --worker=all --command="$1"
}

create_tpu() {
  local shape version
  case $generation in
    v4) shape=(--type=v4 --topology="$grid") version=tpu-ubuntu2204-base ;;
    v5e) shape=(--accelerator-type="v5litepod-$chips") version=v2-alpha-tpuv5-lite ;;
    v5p) shape=(--type=v5p --topology="$grid") version=v2-alpha-tpuv5 ;;
    v6e) shape=(--accelerator-type="v6e-$chips") version=v2-alpha-tpuv6e ;;
  esac
  version=${runtime_version:-$version}
  [[ $spot == false ]] || shape+=(--spot)
  if [[ $queued == false ]]; then
    tpu tpu-vm create "$name" "${shape[@]}" --version="$version"
    return
  fi
  tpu queued-resources create "$name" --node-id="$name" "${shape[@]}" \
    --runtime-version="$version" || return
  note 'every minute until it prints ACTIVE:'
  local state
  until
    state=$(find_state)
    [[ $state == ACTIVE || $dry_run == true ]]
  do
    [[ $state != FAILED && $state != SUSPENDED ]] ||
      die "the queued request is $state; delete it first"
    run sleep 60
  done
}

# Prints the state of the slice; READY, or ACTIVE with --queued, if it can be used.
find_state() {
  local state
  if [[ $queued == true ]]; then
    state=$(tpu queued-resources describe "$name" --format='value(state.state)') || state=UNKNOWN
  else
    state=$(tpu tpu-vm describe "$name" --format='value(state)') || state=UNKNOWN
  fi
  printf '%s' "$state"
}

setup_tpu() {
  if [[ $dry_run == false && -n $(git status --porcelain) ]]; then
    echo 'note: the hosts get the last commit, without uncommitted changes' >&2
  fi
  # The images come with Python 3.10; uv installs a newer one.
  local steps=(
    'rm -rf pdl_jax/source'
    'mkdir -p pdl_jax/source'
    'tar -xzf pdl_jax.tar.gz -C pdl_jax/source'
    'PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user --upgrade uv'
    'python3 -m uv venv --quiet --allow-existing --python=3.12 pdl_jax/venv'
    'python3 -m uv pip install --quiet --python=pdl_jax/venv/bin/python --editable="pdl_jax/source[tpu,gcs]"'
  )
  local command
  command=$(printf ' && %s' "${steps[@]}")
  run mkdir -p build &&
    run git archive --format=tar.gz --output=build/pdl_jax.tar.gz HEAD &&
    tpu tpu-vm scp build/pdl_jax.tar.gz "$name:" --worker=all &&
    on_all_hosts "${command# && }"
}

run_tpu() {
  local command failures=0 status
  command=$(quote "${HOST_RUN[@]}" -- \
    ../venv/bin/python -m pdl_jax.main "${PROGRAM_FLAGS[@]}" "${rest[@]}")
  while true; do
    status=0
    on_all_hosts "$command" || status=$?
    if [[ $dry_run == true ]]; then
      note 'if that fails:'
    elif ((status == 0)); then
      return
    elif ((status != STOPPED_STATUS && ++failures > restarts)); then
      die "the run failed $failures times, last with status $status; see: launch/tpu.sh logs"
    fi
    recover
    if [[ $dry_run == true ]]; then
      note 'and the run again'
      return
    fi
  done
}

# Waits until the hosts can be used again, and recreates a preempted slice.
recover() {
  local state is_set_up=true
  # The state shows a preemption only after a while.
  run sleep 60
  if [[ $dry_run == true ]]; then
    find_state >/dev/null
    note 'where that prints PREEMPTED, TERMINATED, SUSPENDED or FAILED:'
    delete_tpu
    create_tpu
    setup_tpu
    return
  fi
  # Each step can fail by another preemption or lack of capacity, so continue from the actual state.
  while true; do
    state=$(find_state)
    case $state in
      READY | ACTIVE)
        if [[ $is_set_up == true ]] || setup_tpu; then
          return
        fi
        ;;
      PREEMPTED | TERMINATED | SUSPENDED | FAILED)
        is_set_up=false
        delete_tpu || true
        ;;
      UNKNOWN)
        # The slice has just been deleted; if it was set up, the network is down instead.
        [[ $is_set_up == true ]] || create_tpu || true
        ;;
    esac
    run sleep 60
  done
}

stop_tpu() {
  on_all_hosts "$(quote "${HOST_RUN[@]}" --stop)"
}

logs_tpu() {
  local directory=${output:-runs/logs/$name} count worker
  run mkdir -p "$directory"
  count=$(tpu tpu-vm describe "$name" --format='value(networkEndpoints.len())')
  if [[ $dry_run == true ]]; then
    note 'for each of so many hosts, from 0:'
    count=1
  fi
  for ((worker = 0; worker < count; worker++)); do
    tpu tpu-vm scp "$name:pdl_jax/run/log.txt" "$directory/host$worker.txt" --worker="$worker"
  done
}

delete_tpu() {
  if [[ $queued == true ]]; then
    tpu queued-resources delete "$name" --force --quiet
  else
    tpu tpu-vm delete "$name" --quiet
  fi
}

main "$@"
