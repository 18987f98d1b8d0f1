#!/usr/bin/env bash
# Installs the pinned third-party programs that the demo and the tests run against, once, outside the checkout.
#
#   tests/setup/install.sh NAME...     NAME: mlflow-mcp | mlflow-official | mcp-1 | mcp-2 | node-sdk
#
# Prints, one a line, the folder of each on standard output; progress goes to standard error. The cache is
# ${PORTCULLIS_CACHE:-~/.cache/portcullis}/NAME-<hash of its lock file>: another lock file is another folder, and one
# that was not finished is made again. Several calls at once wait for each other.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${PORTCULLIS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/portcullis}
mkdir -p "$cache"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# with_progress TEXT LOG COMMAND...: runs it, tells every few seconds that it still runs, shows its log if it fails.
with_progress() {
  local text=$1 log=$2 started=$SECONDS status=0
  shift 2
  say "  $text …"
  "$@" >"$log" 2>&1 &
  local pid=$! shown=0
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5
    if (( SECONDS - started >= shown + 10 )); then
      shown=$(( SECONDS - started ))
      say "    still at it after ${shown} s"
    fi
  done
  wait "$pid" || status=$?
  if (( status != 0 )); then
    tail -n 25 "$log" >&2
    die "$text failed; the whole log is $log"
  fi
  say "    done in $(( SECONDS - started )) s"
}

need_python() {
  command -v python3 >/dev/null || die "python3 is missing; install Python 3.11 or newer"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || die "$(python3 -V) is too old for the pinned packages; put Python 3.11 or newer first on PATH"
  python3 -c 'import venv, ensurepip' 2>/dev/null \
    || die "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"
}

# Python runs the environment's own interpreter by path, so another Python is another environment.
key_of() {
  case $1 in
    node-sdk) cat "$here/node/package-lock.json" ;;
    *) cat "$here/requirements/$1.txt"; python3 -c 'import sys; print(sys.version, sys.executable)' ;;
  esac | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-12
}

make_python() {
  local name=$1 folder=$2
  rm -rf "$folder"
  python3 -m venv "$folder"
  with_progress "installing $name (pinned, from PyPI)" "$folder.log" \
    "$folder/bin/pip" install --disable-pip-version-check --no-input -r "$here/requirements/$name.txt"
}

make_node() {
  local folder=$1
  command -v npm >/dev/null || die "npm is missing; install Node.js 20 or newer"
  rm -rf "$folder"
  mkdir -p "$folder"
  cp "$here/node/package.json" "$here/node/package-lock.json" "$folder/"
  with_progress "installing the TypeScript SDKs (pinned, from npm)" "$folder.log" \
    npm --prefix "$folder" ci --no-audit --no-fund --ignore-scripts
}

(( $# > 0 )) || { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
for name in "$@"; do
  case $name in
    mlflow-mcp | mlflow-official | mcp-1 | mcp-2) need_python ;;
    node-sdk) ;;
    *) die "unknown name '$name'" ;;
  esac
  folder=$cache/$name-$(key_of "$name")
  (
    if command -v flock >/dev/null; then flock 9; fi
    if [[ ! -e $folder/.complete ]]; then
      case $name in
        node-sdk) make_node "$folder" ;;
        *) make_python "$name" "$folder" ;;
      esac
      touch "$folder/.complete"
    fi
  ) 9>"$cache/.$name.lock"
  printf '%s\n' "$folder"
done
