#!/usr/bin/env bash
# Builds for release and prints the table of measurements (some five minutes). BENCH_SECONDS is the length of a round,
# BENCH_ROUNDS how many of each kind are taken, BENCH_MEMORY_SECONDS how long memory is watched under load, BENCH_ONLY
# picks parts: call,latency,list,denied,evaluate,worst,own,limits,instructions,start,memory. Instructions need valgrind; limits are also measured in a Redis server
# if there is a redis-server or PORTCULLIS_TEST_REDIS names one.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || { echo "error: cargo is missing; install Rust 1.95 or newer with rustup" >&2; exit 1; }
printf 'Building for release …\n' >&2
cargo bench --locked --bench gateway --no-run
model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
printf 'Measuring on %s processors, %s, load average %s\n' "$(nproc)" "$model" "$(cut -d' ' -f1 /proc/loadavg)" >&2
exec cargo bench --locked --quiet --bench gateway
