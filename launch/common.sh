# shellcheck shell=bash
# What the scripts of this folder share: parsing flags, errors of one line, printing commands. Sourced, not run.
# Works with Bash 3.2, the version of macOS.

dry_run=0
rest=()   # the arguments after --
flags=()  # of the command that is built
signals=0 # how many SIGTERM this script has received

fail() { # one line on stderr, status 2
  printf 'error: %s\n' "$*" >&2
  exit 2
}

[ -f launch/common.sh ] || fail "$PWD holds no launch/common.sh; run this from the root of the repository"

usage() { # the comment at the top of the script
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit 0
}

# parse "FLAGS WITH A VALUE" "SWITCHES" ARGUMENTS...: sets the variable named like each flag that is given.
parse() {
  local _values=" $1 " _switches=" $2 dry_run " _flag _name _value # flags have names without underscores in front
  shift 2
  while [ $# -gt 0 ]; do
    case "$1" in
      -h | --help) usage ;;
      --)
        shift
        rest=("$@")
        return
        ;;
    esac
    _flag=${1%%=*}
    _name=${_flag#--}
    _name=${_name//-/_}
    [[ "$_flag" == -* ]] || fail "unexpected argument '$1'; see $0 --help"
    [[ "$_flag" =~ ^--[a-z]+(-[a-z]+)*$ && "$_values$_switches" == *" $_name "* ]] ||
      fail "unknown flag $_flag; see $0 --help"
    if [[ "$_switches" == *" $_name "* ]]; then
      [ "$1" = "$_flag" ] || fail "$_flag takes no value"
      _value=1
    else
      if [ "$1" = "$_flag" ]; then shift; fi
      _value=${1-}
      _value=${_value#"$_flag="}
      [[ -n "$_value" && "$_value" != -* ]] || fail "$_flag has no value; see $0 --help"
    fi
    printf -v "$_name" %s "$_value"
    shift
  done
}

# expect FLAG VALUE PATTERN EXAMPLE: fails where the value is missing or does not match; a value is one word.
expect() {
  [ -n "$2" ] || fail "$1 is missing; expected $4"
  [[ "$2" =~ ^($3)$ ]] || fail "$1: found '$2', expected $4"
}

# add FLAG VALUE PATTERN EXAMPLE: adds to `flags` if there is a value.
add() {
  [ -n "$2" ] || return 0
  expect "$@"
  flags+=("$1" "$2")
}

expect_number() { # expect_number FLAG VALUE SMALLEST
  expect "$1" "$2" '0|[1-9][0-9]{0,5}' "a whole number of at least $3"
  [ "$2" -ge "$3" ] || fail "$1: found '$2', expected a whole number of at least $3"
}

# Checks the module that is run, and that there are arguments for it.
expect_training() {
  expect --module "$1" '[a-z_][a-z0-9_.]*' "a Python module such as beit_jax.train"
  [ ${#rest[@]} -gt 0 ] || fail "no arguments for $1; expected -- --config FILE --workdir FOLDER"
}

quote() { # the arguments as a line that a shell parses into the same words
  local word line="" LC_ALL=C apostrophe="'\"'\"'"
  for word; do
    case "$word" in
      "" | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//\'/$apostrophe}'" ;;
    esac
    line="$line $word"
  done
  printf '%s\n' "${line# }"
}

run() { # runs a command, or prints it under --dry-run
  if [ "$dry_run" = 1 ]; then quote "$@"; else "$@"; fi
}

send_sigterm() { # to the process $1
  kill -TERM "$1" 2>/dev/null || true
}

# Runs a command, forwards SIGTERM to it, and returns its status. `signals` counts the signals.
run_with_sigterm() {
  local pid status=0 seen=-1
  "$@" &
  pid=$!
  trap 'signals=$((signals + 1)); send_sigterm "$pid"' TERM
  while [ "$seen" != "$signals" ]; do # a signal ends `wait` before the command has ended
    seen=$signals
    status=0
    wait "$pid" || status=$?
  done
  return "$status"
}
