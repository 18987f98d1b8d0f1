#!/usr/bin/env bash
# Sets the clock of tests, and of all that they start, to another time. The machine's clock stays as it is.
#
#   tests/clock.sh WHEN         WHEN: "+1 year", or a time such as 2026-02-28T23:59 (UTC). Prints VARIABLE=VALUE, which makes
#                               `cargo test` run each test program at that time; the clock then goes on at its usual pace
#   tests/clock.sh --library    prints the path of libfaketime, with which tests step the clock of one program while it runs
#   tests/clock.sh --check      says why this machine cannot do that, on standard output; nothing if it can
#
# Dynamic programs (the tests, Portcullis, Python, Node.js, openssl) get the time from libfaketime, of Debian's package
# `faketime`, which is installed where it is missing and apt-get may. Static ones (etcd, the Kubernetes programs, Helm) read
# PORTCULLIS_CLOCK_OFFSET: tests/setup/install.sh builds them so.
set -euo pipefail

library() {
  local file
  for file in /usr/lib/*/faketime/libfaketimeMT.so.1; do
    if [[ -e $file ]]; then printf '%s\n' "$file"; return; fi
  done
}

install() {
  if [[ -n $(library) || $EUID != 0 ]] || ! command -v apt-get >/dev/null; then return; fi
  local log
  log=$(mktemp)
  apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1; }
  if ! apt_get install --yes --no-install-recommends libfaketime &&
    ! { apt_get update && apt_get install --yes --no-install-recommends libfaketime; }; then
    tail -n 10 "$log" >&2
  fi
  rm -f "$log"
}

case ${1:-} in
  --check)
    if [[ $(uname) != Linux ]]; then echo "it does not run Linux"; exit; fi
    install
    if [[ -z $(library) ]]; then echo "libfaketime is missing (on Debian or Ubuntu: apt-get install libfaketime)"; fi
    ;;
  --library)
    install
    file=$(library)
    [[ -n $file ]] || { echo "error: libfaketime is missing; on Debian or Ubuntu: apt-get install libfaketime" >&2; exit 1; }
    printf '%s\n' "$file"
    ;;
  '') sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  *)
    install
    file=$(library)
    [[ -n $file ]] || { echo "error: libfaketime is missing" >&2; exit 1; }
    now=$(date +%s)
    offset=$(( $(TZ=UTC date --date "$1" +%s) - now ))
    printf -v signed '%+d' "$offset"
    host=$(rustc -vV | sed -n 's/^host: //p')
    host=${host^^}
    # Waiting is by the monotonic clock, which no date concerns.
    printf 'CARGO_TARGET_%s_RUNNER=env LD_PRELOAD=%s FAKETIME=%s FAKETIME_DONT_FAKE_MONOTONIC=1 PORTCULLIS_CLOCK_OFFSET=%d\n' \
      "${host//-/_}" "$file" "$signed" "$offset"
    ;;
esac
