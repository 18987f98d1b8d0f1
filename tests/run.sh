#!/usr/bin/env bash
# Every check of the project. `tests/run.sh lint` stops after the static ones.
# What a machine cannot run is said, with the reason; the last line counts.
set -uo pipefail
cd "$(dirname "$0")/.."
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-1} CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0

say() { printf '\n== %s\n' "$*"; }
skip() { printf 'skipped: %s\n' "$*"; skipped=$((skipped + 1)); }

cat_and_fail() { cat "$1"; false; }

# check NAME COMMAND...: one check that passes or fails as a whole.
check() {
  say "$1"
  if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); printf 'FAILED: %s\n' "$1"; fi
}

# tests NAME COMMAND...: a `cargo test` run whose own counts are added up.
tests() {
  say "$1"
  local status=0
  "${@:2}" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  local p f i s
  p=$(sed -n 's/^test result:.* \([0-9][0-9]*\) passed;.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
  f=$(sed -n 's/^test result:.* \([0-9][0-9]*\) failed;.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
  i=$(sed -n 's/^test result:.* \([0-9][0-9]*\) ignored;.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
  s=$(grep -c '^skipped: ' "$log")
  passed=$((passed + p - s)) failed=$((failed + f)) skipped=$((skipped + i + s))
  if ((status != 0 && f == 0)); then failed=$((failed + 1)); fi
  if ((status == 0 && p == 0)); then printf 'FAILED: %s ran no test\n' "$1"; failed=$((failed + 1)); fi
}

finish() {
  say "Result"
  printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  exit $((failed > 0))
}

command -v cargo >/dev/null || { echo "error: cargo is missing; install Rust 1.95 or newer with rustup" >&2; exit 1; }

check "cargo fmt --check" cargo fmt --check
check "cargo clippy" cargo clippy --locked --all-targets -- -D warnings
if cargo deny --version >/dev/null 2>&1; then
  check "cargo deny check" cargo deny --locked check bans licenses sources
  if ! cargo deny --locked check advisories >"$log" 2>&1; then
    if grep -q 'failed to fetch advisory database' "$log"; then
      skip "cargo deny check advisories: the advisory database cannot be fetched from here"
    else
      check "cargo deny check advisories" cat_and_fail "$log"
    fi
  else
    passed=$((passed + 1))
  fi
else
  skip "cargo deny is not installed (cargo install cargo-deny)"
fi
if [[ ${1:-} == lint ]]; then finish; fi

say "Programs that the tests run against"
install() { # VARIABLE NAME FILE: exports the installed file, or says what will be skipped
  local folder
  if folder=$(bash tests/setup/install.sh "$2"); then
    export "$1=$folder/$3"
  else
    printf 'FAILED: %s could not be installed\n' "$2"
    failed=$((failed + 1))
  fi
}
install PORTCULLIS_TEST_MLFLOW_MCP mlflow-mcp bin/mlflow-mcp
install PORTCULLIS_TEST_MLFLOW_OFFICIAL mlflow-official bin/mlflow
install PORTCULLIS_TEST_PYTHON_1 mcp-1 bin/python
install PORTCULLIS_TEST_PYTHON_2 mcp-2 bin/python
if command -v npm >/dev/null; then
  install PORTCULLIS_TEST_NODE_MODULES node-sdk node_modules
else
  skip "the TypeScript SDK tests: npm is missing"
fi

if command -v go >/dev/null && [[ $(uname) == Linux ]]; then
  install PORTCULLIS_TEST_CONTROLPLANE controlplane .
else
  skip "the tests on a real API server: they need Linux and Go, of which Kubernetes is built"
fi

if command -v c++ >/dev/null; then
  # A workspace of their own, which the checks above do not see. fuzz/Cargo.toml says how to run them.
  check "Fuzz targets build" cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz
else
  skip "the build of the fuzz targets: there is no C++ compiler (c++), which libFuzzer needs"
fi
tests "Unit tests" cargo test --locked --lib --bins
tests "Offline tests" cargo test --locked --test offline
tests "Gateway tests, with real servers and clients" cargo test --locked --test gateway
if [[ -n ${PORTCULLIS_TEST_CONTROLPLANE:-} ]]; then
  # They wait more than they work.
  tests "Cluster tests, on a real API server" cargo test --locked --test cluster -- --test-threads 4
fi
why=$(bash tests/setup/node-packages.sh --check)
if [[ -n $why ]]; then
  skip "the end-to-end run on a cluster with pods: $why"
else
  check "End to end, on a cluster with pods" bash tests/e2e/run.sh e2e
fi
finish
