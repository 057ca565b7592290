# shellcheck shell=bash disable=SC2034
# Functions shared by the launch scripts, which source this file.

fail() { echo "${0##*/}: $1" >&2; exit 2; }

# Prints the words quoted for a shell.
quote() {
  local word line='' q="'\\''"
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//\'/$q}'" ;;
    esac
    line+="$word "
  done
  printf '%s\n' "${line% }"
}

# Sets the array `program` to the arguments of compressed-lm, from the words after --.
set_program() {
  [ "${1:-}" != compressed-lm ] || shift
  case ${1:-} in
    train) program=("$@" --distributed=on) ;;
    compress) program=("$@") ;; # processes share a folder and do not communicate
    *) fail "after -- there is ${1:-nothing}; expected train or compress, and its arguments. See --help" ;;
  esac
}

# On a TPU slice of several hosts, a process that uses only the chips of its host; otherwise it waits for the others.
one_tpu_host='TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 TPU_VISIBLE_DEVICES=0,1,2,3'
