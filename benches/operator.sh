#!/usr/bin/env bash
# Builds for release, starts a control plane of its own and prints the table of the operator's measurements (some
# ten minutes). BENCH_SERVERS is how many McpServers there are (1000; five McpPolicies each), BENCH_STILL_SECONDS how long the
# cluster is watched at rest, BENCH_CHURN_SECONDS how long policies are edited and servers come and go while memory is watched
# (180; 0 leaves it out).
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || { echo "error: cargo is missing; install Rust 1.95 or newer with rustup" >&2; exit 1; }
printf 'Building for release …\n' >&2
cargo bench --locked --bench operator --no-run
PORTCULLIS_TEST_CONTROLPLANE=${PORTCULLIS_TEST_CONTROLPLANE:-$(bash tests/setup/install.sh controlplane)}
export PORTCULLIS_TEST_CONTROLPLANE
exec cargo bench --locked --quiet --bench operator
