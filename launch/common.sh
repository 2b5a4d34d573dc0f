# Functions and variables that the scripts of this folder source. It changes to the repository, so
# that every path is relative to it.
# shellcheck shell=bash disable=SC2034 # The scripts use these variables.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Dry runs print to descriptor 3, which $(...) does not capture.
exec 3>&1

dry_run=false
rest=()
# Exit status (EX_TEMPFAIL) of a run that was told to stop and has saved; it is to be restarted.
readonly STOPPED_STATUS=75
readonly PROGRAM_FLAGS=(--distributed "--stopped_status=$STOPPED_STATUS")

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

# quote WORD...: prints the words quoted for a shell.
quote() {
  local word line='' apostrophe="'" escaped="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//"$apostrophe"/"$escaped"}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# run COMMAND...: prints the command and runs it; a dry run only prints it.
run() {
  if [[ $dry_run == true ]]; then
    quote "$@" >&3
    return
  fi
  printf '+ %s\n' "$(quote "$@")" >&2
  "$@"
}

# note WORD...: in a dry run, prints the condition under which the following commands run.
note() {
  [[ $dry_run == false ]] || printf '# %s\n' "$*" >&3
}

# parse_flags 'NAME...' ARGUMENT...: sets the variables of these names, which hold the defaults,
# from --NAME=VALUE, or to true from --NAME if the default is false. Words after -- become `rest`.
parse_flags() {
  local flag_names=" $1 dry_run " flag flag_name flag_value
  shift
  while (($#)); do
    flag=$1
    shift
    case $flag in
      --)
        rest=("$@")
        return
        ;;
      --help)
        # Print the comment at the head of the script.
        sed -n '2,/^$/s/^# \{0,1\}//p' "launch/${0##*/}"
        exit
        ;;
      --*=*) flag_value=${flag#*=} ;;
      --*) flag_value='' ;;
      *) die "unexpected argument $(quote "$flag"): options are --name=value; see --help" ;;
    esac
    flag_name=${flag%%=*}
    flag_name=${flag_name#--}
    [[ $flag_name =~ ^[a-z_]+$ && $flag_names == *" $flag_name "* ]] ||
      die "unknown option $(quote "$flag"); see --help"
    if [[ ${!flag_name} == true || ${!flag_name} == false ]]; then
      [[ $flag == *=* ]] || flag_value=true
      [[ $flag_value == true || $flag_value == false ]] ||
        die "--$flag_name must be true or false, not $(quote "$flag_value")"
    else
      [[ -n $flag_value ]] || die "--$flag_name needs a value: --$flag_name=..."
    fi
    printf -v "$flag_name" '%s' "$flag_value"
  done
}

# require NAME...: fails unless all these options are given.
require() {
  local option
  for option in "$@"; do
    [[ -n ${!option} ]] || die "--$option=... is missing; see --help"
  done
}

# require_name NAME: fails for names that the clouds do not accept or that might be read as an
# option or a path.
require_name() {
  [[ $1 =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    die "the name $(quote "$1") must be 1 to 40 letters a-z, digits and hyphens," \
      'start with a letter and not end with a hyphen'
}

# require_program_flags: fails unless flags for pdl_jax.main follow --.
require_program_flags() {
  ((${#rest[@]})) ||
    die 'the flags of pdl_jax.main are missing: ... -- --config=FILE --workdir=DIRECTORY'
}

# require_number NAME...: fails unless these options are positive integers.
require_number() {
  local option
  for option in "$@"; do
    [[ ${!option} =~ ^[1-9][0-9]{0,5}$ ]] ||
      die "--$option must be a positive integer, not $(quote "${!option}")"
  done
}

# parse_topology v5e:4x4: sets generation=v5e, grid=4x4 and chips=16.
parse_topology() {
  local side='([1-9][0-9]{0,2})'
  [[ $1 =~ ^(v5e|v6e):${side}x${side}$ || $1 =~ ^(v4|v5p|tpu7x):${side}x${side}x${side}$ ]] ||
    die "--topology must be like v5e:4x4, v6e:4x4, v4:2x2x4, v5p:2x2x4 or tpu7x:2x2x4," \
      "not $(quote "$1")"
  generation=${BASH_REMATCH[1]}
  grid=${1#*:}
  chips=$((BASH_REMATCH[2] * BASH_REMATCH[3] * ${BASH_REMATCH[4]:-1}))
}
