#!/usr/bin/env bash
# Submits a run on the GPUs of one or more nodes to Slurm, with one process per GPU.
#
#   launch/slurm.sh --nodes=4 --gpus_per_node=8 [--cpus_per_gpu=8] [--time=24:00:00]
#                   [--partition=NAME] [--account=NAME] [--name=pdl-jax]
#                   [--python=.venv/bin/python] [--logs=runs/logs] [--dry_run]
#                   -- --config=configs/coco.py --workdir=runs/coco ...
#
# Five minutes before its time limit, or when Slurm preempts it, the run saves, exits and is
# requeued. --workdir and --python must be on a file system that all nodes share. --dry_run prints
# the command only.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nodes=1 gpus_per_node=1 cpus_per_gpu=8 time=24:00:00 partition='' account=''
name=pdl-jax python=.venv/bin/python logs=runs/logs
parse_flags 'nodes gpus_per_node cpus_per_gpu time partition account name python logs' "$@"
require_name "$name"
require_number nodes gpus_per_node cpus_per_gpu
require_program_flags

command=(
  sbatch
  --job-name="$name"
  --nodes="$nodes"
  # Under Slurm JAX takes one GPU per process and finds the other processes by itself.
  --ntasks-per-node="$gpus_per_node"
  --gpus-per-node="$gpus_per_node"
  --cpus-per-task="$cpus_per_gpu"
  --time="$time"
  --signal=TERM@300
  --requeue
  --open-mode=append
  --output="$logs/%x-%j.txt"
)
[[ -z $partition ]] || command+=(--partition="$partition")
[[ -z $account ]] || command+=(--account="$account")
run mkdir -p "$logs"
run "${command[@]}" \
  launch/slurm_job.sh --cpus_per_gpu="$cpus_per_gpu" --python="$python" -- "${rest[@]}"
