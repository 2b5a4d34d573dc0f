# What the scripts of this folder share. They source it; every path is then relative to the repository.
# shellcheck shell=bash disable=SC2034 # The scripts use what is set here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Dry runs print here, so that they are also seen from within $(...).
exec 3>&1

dry_run=false
rest=()
# A run that was told to stop, and saved, ends with this status (EX_TEMPFAIL): start it again.
readonly STOPPED_STATUS=75
readonly PROGRAM_FLAGS=(--distributed "--stopped_status=$STOPPED_STATUS")

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

# quote WORD...: the words as a shell reads them back unchanged.
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

# run COMMAND...: shows the command and runs it. A dry run only shows it.
run() {
  if [[ $dry_run == true ]]; then
    quote "$@" >&3
    return
  fi
  printf '+ %s\n' "$(quote "$@")" >&2
  "$@"
}

# note WORD...: in a dry run, says when the commands that follow run.
note() {
  [[ $dry_run == false ]] || printf '# %s\n' "$*" >&3
}

# parse_flags 'NAME...' ARGUMENT...: sets the variables of these names, which hold the defaults, from --NAME=VALUE,
# or from --NAME alone where the default is false. What follows -- becomes `rest`.
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
        # The comment at the head of the script.
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
        die "--$flag_name is true or false, not $(quote "$flag_value")"
    else
      [[ -n $flag_value ]] || die "--$flag_name needs a value: --$flag_name=..."
    fi
    printf -v "$flag_name" '%s' "$flag_value"
  done
}

# require NAME...: ends the script unless all these options were given.
require() {
  local option
  for option in "$@"; do
    [[ -n ${!option} ]] || die "--$option=... is missing; see --help"
  done
}

# require_name NAME: the clouds take no other names, and none of these can be read as an option or a path.
require_name() {
  [[ $1 =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    die "the name $(quote "$1") must be 1 to 40 letters a-z, digits and hyphens, begin with a letter and not end with a hyphen"
}

# require_program_flags: ends the script unless flags for pdl_jax.main follow --.
require_program_flags() {
  ((${#rest[@]})) || die 'the flags of pdl_jax.main are missing: ... -- --config=FILE --workdir=DIRECTORY'
}

# require_number NAME...: ends the script unless these options are whole numbers from 1.
require_number() {
  local option
  for option in "$@"; do
    [[ ${!option} =~ ^[1-9][0-9]{0,5}$ ]] || die "--$option is a number from 1, not $(quote "${!option}")"
  done
}

# parse_topology v5e:4x4: sets generation=v5e, grid=4x4 and chips=16.
parse_topology() {
  local side='([1-9][0-9]{0,2})'
  [[ $1 =~ ^(v5e|v6e):${side}x${side}$ || $1 =~ ^(v4|v5p|tpu7x):${side}x${side}x${side}$ ]] ||
    die "--topology is v5e:4x4 or v6e:4x4, or v4:2x2x4, v5p:2x2x4 or tpu7x:2x2x4, not $(quote "$1")"
  generation=${BASH_REMATCH[1]}
  grid=${1#*:}
  chips=$((BASH_REMATCH[2] * BASH_REMATCH[3] * ${BASH_REMATCH[4]:-1}))
}
