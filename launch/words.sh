# What the launch scripts have in common; they source it.

fail() { echo "${0##*/}: $1" >&2; exit 2; }

# Prints words so that a shell reads them back as they are.
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
