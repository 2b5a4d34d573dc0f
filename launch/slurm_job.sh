#!/usr/bin/env bash
# The batch script of launch/slurm.sh: runs pdl_jax.main in every task and joins the queue again where it was stopped.
#
#   sbatch ... launch/slurm_job.sh [--cpus_per_gpu=8] [--python=.venv/bin/python] [--dry_run] -- --config=FILE ...

# Slurm runs a copy of this file from another folder, in the one of the submission: the repository.
# shellcheck source=launch/common.sh
source launch/common.sh

cpus_per_gpu=8 python=.venv/bin/python
parse_flags 'cpus_per_gpu python' "$@"
require_number cpus_per_gpu
require_program_flags

# The signal that ends the tasks may reach this shell too, which is to outlive them.
trap : TERM
status=0
# Tasks end together, within the timeout of a lost process; --wait bounds it where one hangs.
run srun --cpus-per-task="$cpus_per_gpu" --wait=300 "$python" -m pdl_jax.main "${PROGRAM_FLAGS[@]}" "${rest[@]}" || status=$?
note "where that ends with status $STOPPED_STATUS:"
if [[ $status == "$STOPPED_STATUS" || $dry_run == true ]]; then
  run scontrol requeue "${SLURM_JOB_ID:-JOB_ID}"
fi
exit "$status"
