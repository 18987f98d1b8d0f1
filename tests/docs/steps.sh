# What the scripts of this folder, and those that are made of pages, are run with. tests/docs/run.rs starts them.
#
# In: $STEPS, a folder with a script for each page; $OUT, a folder for what its blocks print. Out: `steps PAGE`.
# Must not do: outlive the test: all that was started ends with this script.
# shellcheck shell=bash
set -euo pipefail
# Each program that a page starts leads a group of its own, so that its children end with it.
set -m
# A block that fails ends the shell while its output still goes to its log.
exec 3>&2

at='its first step' log=/dev/null started=() last=

die() { printf '%s: %s\n' "$at" "$*" >&3; exit 1; }

finish() {
  local status=$? pid
  trap - EXIT
  if (( status != 0 )); then
    printf 'FAILED at %s, which printed:\n%s\n' "$at" "$(cat "$log")" >&3
    for file in "$OUT"/*.started; do
      if [[ -e $file ]]; then printf '%s\n%s\n' "--- ${file##*/}:" "$(tail -n 20 "$file")" >&3; fi
    done
  fi
  for pid in "${started[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM

# says TEXT: waits until the program that was started last has printed it.
says() {
  local tries
  for ((tries = 0; tries < 1800; tries++)); do
    if grep -qF -- "$1" "$log"; then return; fi
    kill -0 "$last" 2>/dev/null || { grep -qF -- "$1" "$log" && return; die "the program ended before it said '$1'"; }
    sleep 0.1
  done
  die "the program did not say '$1'"
}

# until_says TEXT FUNCTION: calls it until it prints that.
until_says() {
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    "$2" >"$log" 2>&1 || true
    if grep -qF -- "$1" "$log"; then return; fi
    sleep 0.1
  done
  die "it did not print '$1'"
}

# steps PAGE: does what the page says, block by block.
# shellcheck disable=SC1090
steps() { . "$STEPS/${1//\//-}.sh"; }

# check TEXT COMMAND...: a step of a script.
check() {
  at=$1 log=$OUT/check
  "${@:2}" >"$log" 2>&1 || exit 1
}

# mlflow_says PATH TEXT: the real MLflow's own answer has that text.
mlflow_says() { curl -sS "http://127.0.0.1:$MLFLOW_PORT/api/2.0/mlflow/$1" | tee /dev/stderr | grep -qF -- "$2"; }
