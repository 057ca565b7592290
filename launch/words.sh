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
