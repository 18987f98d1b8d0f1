#!/usr/bin/env bash
# make demo: Portcullis between an agent and a real MLflow, on this machine, on loopback only.
#
#   make demo            shows the main job, checks every step in MLflow itself, and leaves nothing running
#   make demo KEEP=1     leaves MLflow and the gateway running and shows how to point your own agent at them
#
# PORTCULLIS_BIN=PATH uses a program that is already built.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

missing=
if [[ -z ${PORTCULLIS_BIN:-} ]] && ! command -v cargo >/dev/null; then
  missing+="
  cargo     install Rust 1.95 or newer: https://rustup.rs"
fi
command -v python3 >/dev/null || missing+="
  python3   install Python 3.11 or newer"
[[ -z $missing ]] || die "the demo needs programs that are missing on this machine:$missing"

printf '%s\n' "Installing MLflow and mlflow-mcp, once (about 900 MB; later runs find them in the cache)" >&2
venv=$(bash tests/setup/install.sh mlflow-mcp)

program=${PORTCULLIS_BIN:-}
if [[ -z $program ]]; then
  # The profile of `make test`, so that each reuses what the other has built.
  printf '%s\n' "Building portcullis, once (a few minutes on the first run)" >&2
  program=$(cargo build --locked --bin portcullis --message-format=json-render-diagnostics |
    "$venv/bin/python" -c '
import json, sys
found = [m.get("executable") for m in map(json.loads, sys.stdin) if m.get("reason") == "compiler-artifact"]
print([path for path in found if path][-1])')
fi
[[ -x $program ]] || die "there is no program at $program"

keep=()
if [[ ${KEEP:-0} != 0 ]]; then keep=(--keep); fi
# The odd form of the last word: an empty array is an unset variable for the bash of macOS.
exec "$venv/bin/python" -u "$here/demo.py" --portcullis "$program" ${keep[@]+"${keep[@]}"}
