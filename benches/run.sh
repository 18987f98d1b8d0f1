#!/usr/bin/env bash
# Builds for release and prints the table of measurements. BENCH_SECONDS is the length of a round, BENCH_ROUNDS how many
# of each kind are taken, BENCH_CALLS how many calls memory is watched over.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || { echo "error: cargo is missing; install Rust 1.95 or newer with rustup" >&2; exit 1; }
printf 'On %s processors, %s\n\n' "$(nproc)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
exec cargo bench --locked --bench gateway
