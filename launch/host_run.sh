#!/usr/bin/env bash
# Starts a command that outlives the connection, shows its output and exits with its status. Another
# call while the command runs shows its further output. launch/tpu.sh calls it on every host.
#
#   launch/host_run.sh [--directory=runs/host] [--dry_run] -- COMMAND ARGUMENT...
#   launch/host_run.sh [--directory=runs/host] [--dry_run] --stop
#
# The output is appended to log.txt in the directory. --stop sends SIGTERM, upon which pdl_jax saves
# and exits; the call that shows its output then exits with status 0.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

directory=runs/host stop=false
parse_flags 'directory stop' "$@"
require directory
lock=$directory/lock log=$directory/log.txt

if [[ $stop == true ]]; then
  if [[ $dry_run == false ]] && { [[ ! -e $lock ]] || flock --nonblock "$lock" true; }; then
    echo 'nothing is running'
    exit
  fi
  run touch "$directory/stopped"
  run pkill -TERM --pidfile "$directory/pid"
  exit
fi

((${#rest[@]})) || die 'the command is missing: ... -- COMMAND'
# The inner shell alone holds the lock, as long as the command runs.
# shellcheck disable=SC2016 # The inner shell expands this.
supervised=(setsid bash -c 'trap : TERM
(echo "$BASHPID" >"$0/pid"; exec "$@" 9>&-)
echo "$?" >"$0/status"' "$directory" "${rest[@]}")
if [[ $dry_run == true ]]; then
  run "${supervised[@]}"
  exit
fi

mkdir -p "$directory"
touch "$log"
seen_bytes=$(wc -c <"$log")
exec 9>"$lock"
if flock --nonblock 9; then
  rm -f "$directory/status" "$directory/stopped"
  "${supervised[@]}" </dev/null >>"$log" 2>&1 3>&- &
else
  echo 'already running; its further output follows'
fi
exec 9>&-
flock "$lock" true 3>&- &
tail --bytes=+$((seen_bytes + 1)) --follow --pid=$! "$log"

if [[ -e $directory/stopped ]]; then
  echo 'stopped by --stop'
  exit
fi
[[ -s $directory/status ]] || die 'the command and its supervisor were killed'
exit "$(cat "$directory/status")"
