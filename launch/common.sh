# shellcheck shell=bash
# Sourced by the others: `run` prints a command, and runs it unless --dry_run came first.
dry_run=
if [[ ${1:-} == --dry_run ]]; then
  dry_run=1
  shift
fi

run() {
  printf '%s\n' "+$(printf ' %q' "$@")" # in one piece, for two may print at once
  [[ -n $dry_run ]] || "$@"
}

need() { # need NAME VALUE WHAT: stop with one line where a value is missing
  [[ -n $2 ]] || { echo "error: $1 is missing: $3 (see the head of $0)" >&2; exit 1; }
}
