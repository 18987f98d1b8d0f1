# For the other scripts here, which source it: the cache, messages, waiting, locks.
#
# Out: $cache, an absolute path, and PORTCULLIS_CACHE with it for what is started from here; say, die, with_progress,
#   sha12, machine_lock.
# shellcheck shell=bash

cache=${PORTCULLIS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/portcullis}
mkdir -p "$cache"
# The scripts change folders, so a relative path must not stay one.
cache=$(cd "$cache" && pwd)
export PORTCULLIS_CACHE=$cache

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# with_progress TEXT LOG COMMAND...: runs it, says every ten seconds that it is still running, shows its log if it fails.
with_progress() {
  local text=$1 log=$2 started=$SECONDS status=0
  shift 2
  say "  $text …"
  "$@" >"$log" 2>&1 &
  local pid=$! shown=0
  # Bash lets commands in the background ignore Ctrl-C: without this they would go on, and write into the cache.
  trap 'kill "$pid" 2>/dev/null; exit 130' INT
  trap 'kill "$pid" 2>/dev/null; exit 143' TERM HUP
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5
    if (( SECONDS - started >= shown + 10 )); then
      shown=$(( SECONDS - started ))
      say "    still running after ${shown} s$(progress_of "$log")"
    fi
  done
  wait "$pid" || status=$?
  trap - INT TERM HUP
  if (( status != 0 )); then
    tail -n 25 "$log" >&2
    die "$text failed; the whole log is $log"
  fi
  say "    done in $(( SECONDS - started )) s"
}

# How far a command is: for a Go build, which prints each package as it compiles it.
progress_of() {
  if [[ $1 == *.go.log ]]; then printf ', %d packages compiled' "$(grep -c / "$1")"; fi
}

# The first 12 hexadecimal digits of the SHA-256 of standard input. Names in the cache end with them.
sha12() { { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-12; }

# machine_lock NAME: a lock file for what the whole machine shares, such as a network or buildah's store. Locks in the
# cache do not serve for that: two users, or two caches, would not see each other's.
machine_lock() {
  local folder=/run/lock
  if [[ ! -d $folder || ! -w $folder ]]; then folder=${TMPDIR:-/tmp}; fi
  printf '%s/portcullis-%s.lock\n' "$folder" "$1"
}
