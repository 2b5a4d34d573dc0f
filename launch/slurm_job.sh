#!/usr/bin/env bash
# Batch script of launch/slurm.sh: runs pdl_jax.main in every task and requeues a stopped run.
#
#   sbatch ... launch/slurm_job.sh [--cpus_per_gpu=8] [--python=.venv/bin/python] [--dry_run]
#              -- --config=FILE ...

# Slurm runs a copy of this file, in the directory of the submission, which is the repository.
# shellcheck source=launch/common.sh
source launch/common.sh

cpus_per_gpu=8 python=.venv/bin/python
parse_flags 'cpus_per_gpu python' "$@"
require_number cpus_per_gpu
require_program_flags

# The signal that ends the tasks may reach this shell too; it must outlive them.
trap : TERM
status=0
# Tasks end together, within the heartbeat timeout; --wait ends the others if one hangs.
run srun --cpus-per-task="$cpus_per_gpu" --wait=300 \
  "$python" -m pdl_jax.main "${PROGRAM_FLAGS[@]}" "${rest[@]}" || status=$?
note "where that ends with status $STOPPED_STATUS:"
if [[ $status == "$STOPPED_STATUS" || $dry_run == true ]]; then
  run scontrol requeue "${SLURM_JOB_ID:-JOB_ID}"
fi
exit "$status"
