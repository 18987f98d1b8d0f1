#!/usr/bin/env bash
# Every check of the project, or some of them.
#
#   tests/run.sh [PART...]     PART: lint | lint-docs | unit | offline | gateway | cluster | fuzz | e2e | clock | clock-short
#
# Without a PART: all but `clock`, of which `clock-short` is the cheap form. What a machine cannot run is listed with the
# reason. The end is a table of where the time went and a line that counts.
#
# Takes: T, a part of the names of the tests to run (unit, offline, gateway, cluster, clock); PORTCULLIS_SKIP, a list with
#   commas of what to skip: cluster, mlflow, python, node, browser, conformance, redis, jq, actionlint, clock, e2e; SHOW, to see
#   what tests of the cluster part print; NEWEST, to test the newest releases of the MLflow servers too.
set -uo pipefail
cd "$(dirname "$0")/.."
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-1} CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
export PORTCULLIS_SKIP=${PORTCULLIS_SKIP:-}

parts=("$@")
if (( ${#parts[@]} == 0 )); then parts=(lint lint-docs unit offline gateway cluster fuzz e2e clock-short); fi
filter=()
if [[ -n ${T:-} ]]; then filter=("$T"); fi

work=$(mktemp -d "${TMPDIR:-/tmp}/portcullis-tests.XXXXXX")
log=$work/log
passed=0 failed=0 skipped=0
background=

clean_up() {
  if [[ -n $background ]]; then kill -s TERM -- "-$background" 2>/dev/null; wait "$background" 2>/dev/null; fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say() { printf '\n== %s\n' "$*"; }
skip() { printf 'skipped: %s\n' "$*"; skipped=$((skipped + 1)); }
fail() { printf 'FAILED: %s\n' "$*"; failed=$((failed + 1)); }
left_out() { [[ ",$PORTCULLIS_SKIP," == *",$1,"* ]]; }
wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }

# ---- Where the time goes --------------------------------------------------------------------------------------------

rows=()
# took NAME SECONDS
took() { rows+=("$(printf '%-58s %4d:%02d' "$1" $(( $2 / 60 )) $(( $2 % 60 )))"); }

# ---- Checks and tests -----------------------------------------------------------------------------------------------

cat_and_fail() { cat "$1"; false; }

# check NAME COMMAND...: one check that passes or fails as a whole.
check() {
  local started=$SECONDS
  say "$1"
  if "${@:2}"; then passed=$((passed + 1)); else fail "$1"; fi
  took "$1" $((SECONDS - started))
}

# tests NAME COMMAND...: a `cargo test` run whose own counts are added up.
tests() {
  local status=0 started=$SECONDS p f i s
  say "$1"
  "${@:2}" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  p=$(sum passed) f=$(sum failed) i=$(sum ignored)
  s=$(grep -c '^skipped: ' "$log")
  passed=$((passed + p - s)) failed=$((failed + f)) skipped=$((skipped + i + s))
  if ((status != 0 && f == 0)); then fail "$1"; fi
  if ((status == 0 && p == 0)); then fail "$1 ran no test${T:+ (is there one whose name has \"$T\"?)}"; fi
  took "$1" $((SECONDS - started))
}
sum() { sed -n "s/^test result:.* \([0-9][0-9]*\) $1;.*/\1/p" "$log" | awk '{n += $1} END {print n + 0}'; }

finish() {
  say "Where the time went (minutes:seconds)"
  printf '%s\n' ${rows[@]+"${rows[@]}"}
  took "all of it" "$SECONDS"
  printf '%s\n' "${rows[-1]}"
  say "Result"
  printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  exit $((failed > 0))
}

# ---- Programs that tests run against --------------------------------------------------------------------------------

# What is installed below is downloaded and built beside the first checks, which need none of it.
installs() {
  local names=()
  if wanted lint-docs && can_check_spelling; then names+=(typos); fi
  if wanted lint-docs && can_check_workflows; then names+=(actionlint); fi
  if wanted gateway || wanted cluster || wanted clock; then
    if ! left_out node && command -v npm >/dev/null; then names+=(node-sdk); fi
    if ! left_out conformance && command -v go >/dev/null; then names+=(reference-server); fi
    if ! left_out python; then names+=(mcp-1 mcp-2 fastmcp); fi
    if ! left_out mlflow; then names+=(mlflow-mcp mlflow-official); fi
    if ! left_out redis && [[ -z ${PORTCULLIS_TEST_REDIS:-} ]]; then names+=(redis); fi
    if ! left_out browser && [[ -z ${PORTCULLIS_TEST_CHROMIUM:-} && -z $(why_no_browser) ]]; then names+=(chromium); fi
  fi
  if has_cluster && { wanted cluster || wanted clock || wanted clock-short || wanted e2e; }; then names+=(controlplane); fi
  if wanted e2e && ! left_out e2e && [[ -z $(bash tests/setup/node-packages.sh --check) ]]; then names+=(e2e); fi
  printf '%s\n' ${names[@]+"${names[@]}"}
}

has_cluster() { ! left_out cluster && command -v go >/dev/null && [[ $(uname) == Linux ]]; }

can_check_workflows() { ! left_out actionlint && command -v go >/dev/null; }

can_check_spelling() { ! left_out python && command -v python3 >/dev/null; }

# Nothing where Debian's can be unpacked.
why_no_browser() { bash tests/setup/chromium.sh --check; }

browser_on_path() { command -v chromium-headless-shell || command -v chromium; }

install_one() {
  if [[ $1 == e2e ]]; then nice bash tests/e2e/run.sh prepare; else bash tests/setup/install.sh "$1"; fi
}

start_installs() {
  if [[ -z ${PORTCULLIS_TEST_CHROMIUM:-} ]] && browser_on_path >/dev/null; then
    PORTCULLIS_TEST_CHROMIUM=$(browser_on_path)
    export PORTCULLIS_TEST_CHROMIUM
  fi
  local names
  mapfile -t names < <(installs)
  if (( ${#names[@]} == 0 )); then return; fi
  # A process group of its own, so that Ctrl-C ends all of it.
  set -m
  (
    for name in "${names[@]}"; do
      started=$SECONDS
      status=0
      install_one "$name" >"$work/$name.folder" 2>"$work/$name.log" || status=$?
      printf '%d %d\n' "$status" $((SECONDS - started)) >"$work/$name.part"
      mv "$work/$name.part" "$work/$name.done"
    done
  ) </dev/null &
  background=$!
  set +m
}

# installed NAME: waits for it and prints its output, if there is any; false if it failed.
installed() {
  local name=$1 shown=$SECONDS status seconds
  until [[ -e $work/$name.done ]]; do
    if ! kill -0 "$background" 2>/dev/null && [[ ! -e $work/$name.done ]]; then fail "$name was not installed"; return 1; fi
    if (( SECONDS >= shown + 20 )); then
      shown=$SECONDS
      printf '  waiting for %s: %s\n' "$name" "$(tail -n 1 "$work/$name.log" 2>/dev/null)"
    fi
    sleep 0.5
  done
  read -r status seconds <"$work/$name.done"
  if (( seconds > 2 )); then took "$name: installing, while other checks ran" "$seconds"; fi
  if (( status != 0 )); then cat "$work/$name.log"; fail "$name could not be installed"; return 1; fi
}

# use VARIABLE NAME FILE: exports the installed file.
use() {
  if [[ -n ${!1:-} ]]; then return; fi
  if installed "$2"; then export "$1=$(tail -n 1 "$work/$2.folder")/$3"; else left_out_from_now "$4"; fi
}
# A failed installation is reported once; the tests that need the program are left out instead of failing too.
left_out_from_now() { PORTCULLIS_SKIP+=,$1; }

# newest VARIABLE NAME FILE: the newest release. Only where it is asked for: what was released since must not fail a change
# that has nothing to do with it.
newest() {
  local folder
  if [[ -n ${!1:-} ]]; then return; fi
  if [[ -z ${NEWEST:-} ]]; then
    skip "the tests with $2: set NEWEST=1 to run them"
    left_out_from_now newest
  elif left_out newest; then skip "the tests with $2: PORTCULLIS_SKIP says so"
  elif folder=$(bash tests/setup/install.sh "$2" 2>"$work/$2.log"); then export "$1=$folder/$3"
  else
    skip "the tests with $2: $(tail -n 1 "$work/$2.log")"
    left_out_from_now newest
  fi
}

# Waits until nothing is installed or built beside the tests any more: real MCP servers and API servers that start beside a
# build of Kubernetes on two cores would exceed the tests' time limits. The tests themselves are
# built in the meantime.
settle() {
  if [[ -z $background ]] || ! kill -0 "$background" 2>/dev/null; then return; fi
  local started=$SECONDS shown
  say "Building the tests beside the programs that they run against"
  cargo test --locked --no-run "$@"
  shown=$SECONDS
  while kill -0 "$background" 2>/dev/null; do
    if (( SECONDS >= shown + 30 )); then
      shown=$SECONDS
      printf '  waiting for the last of them: %s\n' "$(cat "$(ls -t "$work"/*.log 2>/dev/null | head -n 1)" 2>/dev/null | tail -n 1)"
    fi
    sleep 0.5
  done
  took "building tests and waiting for the programs that they run against" $((SECONDS - started))
}

programs_ready=
use_programs() {
  if [[ -n $programs_ready ]]; then return; fi
  programs_ready=1
  say "Programs that the tests run against"
  if left_out python; then skip "the tests with the Python SDKs and fastmcp: PORTCULLIS_SKIP says so"; else
    use PORTCULLIS_TEST_PYTHON_1 mcp-1 bin/python python
    use PORTCULLIS_TEST_PYTHON_2 mcp-2 bin/python python
    use PORTCULLIS_TEST_FASTMCP fastmcp bin/python python
  fi
  if left_out node; then skip "the tests with the TypeScript SDKs, mcp-remote and the Inspector: PORTCULLIS_SKIP says so"
  elif ! command -v npm >/dev/null; then
    skip "the tests with the TypeScript SDKs, mcp-remote and the Inspector: npm is missing"
    left_out_from_now node
  else use PORTCULLIS_TEST_NODE_MODULES node-sdk node_modules node; fi
  if left_out browser; then skip "the tests with a browser: PORTCULLIS_SKIP says so"
  elif [[ -n ${PORTCULLIS_TEST_CHROMIUM:-} ]]; then printf '  chromium: %s\n' "$PORTCULLIS_TEST_CHROMIUM"
  elif [[ -n $(why_no_browser) ]]; then
    skip "the tests with a browser: $(why_no_browser); install Chromium, or set PORTCULLIS_TEST_CHROMIUM to it"
    left_out_from_now browser
  else use PORTCULLIS_TEST_CHROMIUM chromium chromium browser; fi
  if left_out conformance; then skip "the public conformance suite: PORTCULLIS_SKIP says so"
  elif ! command -v go >/dev/null; then
    skip "the public conformance suite: Go is missing, to build its reference server"
    left_out_from_now conformance
  else use PORTCULLIS_TEST_REFERENCE_SERVER reference-server everything-server conformance; fi
  if left_out mlflow; then skip "the tests with MLflow's real servers: PORTCULLIS_SKIP says so"; else
    use PORTCULLIS_TEST_MLFLOW_MCP mlflow-mcp bin/mlflow-mcp mlflow
    use PORTCULLIS_TEST_MLFLOW_OFFICIAL mlflow-official bin/mlflow mlflow
    newest PORTCULLIS_TEST_NEWEST_MLFLOW_MCP newest-mlflow-mcp bin/mlflow-mcp
    newest PORTCULLIS_TEST_NEWEST_MLFLOW_OFFICIAL newest-mlflow-official bin/mlflow
  fi
  if left_out jq; then skip "the jobs of the pages: PORTCULLIS_SKIP says so"
  elif ! command -v jq >/dev/null; then
    skip "the jobs of the pages: jq is missing"
    left_out_from_now jq
  fi
  if left_out redis; then skip "the tests with a Redis or Valkey server: PORTCULLIS_SKIP says so"
  elif [[ -n ${PORTCULLIS_TEST_REDIS:-} ]]; then printf '  redis: %s\n' "$PORTCULLIS_TEST_REDIS"
  else use PORTCULLIS_TEST_REDIS redis bin/valkey-server redis; fi
}

# What steps the clock of one gateway while it runs.
use_clock() {
  local library
  if [[ -n ${PORTCULLIS_TEST_FAKETIME:-} ]]; then return; fi
  if left_out clock; then skip "steps of a gateway's clock: PORTCULLIS_SKIP says so"
  elif library=$(bash tests/clock.sh --library 2>"$work/clock.log"); then export PORTCULLIS_TEST_FAKETIME=$library
  else
    skip "steps of a gateway's clock: $(tail -n 1 "$work/clock.log")"
    left_out_from_now clock
  fi
}

# False, with the reason, where there is no control plane to test on.
use_cluster() {
  if left_out cluster; then skip "the tests on a real API server: PORTCULLIS_SKIP says so"; return 1; fi
  if ! has_cluster; then
    skip "the tests on a real API server: they need Linux, and Go to build Kubernetes"
    return 1
  fi
  use PORTCULLIS_TEST_CONTROLPLANE controlplane . cluster
  use_clock
  [[ -n ${PORTCULLIS_TEST_CONTROLPLANE:-} ]]
}

# ---- The parts ------------------------------------------------------------------------------------------------------

lint() {
  check "cargo fmt --check" cargo fmt --all --check
  check "cargo clippy" cargo clippy --locked --all-targets -- -D warnings
  if ! cargo deny --version >/dev/null 2>&1; then
    skip "cargo deny is not installed (cargo install cargo-deny)"
    return
  fi
  check "cargo deny check" cargo deny --locked check bans licenses sources
  if cargo deny --locked check advisories >"$log" 2>&1; then
    passed=$((passed + 1))
  elif grep -q 'failed to fetch advisory database' "$log"; then
    skip "cargo deny check advisories: the advisory database cannot be fetched from here"
  else
    check "cargo deny check advisories" cat_and_fail "$log"
  fi
}

# The spelling of names, comments and pages, whose phrases `tests/offline/words.rs` checks; and the workflows.
lint-docs() {
  spelling
  workflows
}

workflows() {
  if left_out actionlint; then skip "the workflows of .github: PORTCULLIS_SKIP says so"; return; fi
  if ! can_check_workflows; then skip "the workflows of .github: Go is missing"; return; fi
  installed actionlint || return 0
  check "actionlint" "$(tail -n 1 "$work/actionlint.folder")/actionlint"
}

spelling() {
  if left_out python; then skip "the spelling of comments and pages: PORTCULLIS_SKIP says so"; return; fi
  if ! can_check_spelling; then skip "the spelling of comments and pages: python3 is missing"; return; fi
  installed typos || return 0
  check "typos" "$(tail -n 1 "$work/typos.folder")/bin/typos"
}

unit() { tests "Unit tests" cargo test --locked --lib --bins -- ${filter[@]+"${filter[@]}"}; }

offline() { tests "Offline tests" cargo test --locked --test offline -- ${filter[@]+"${filter[@]}"}; }

gateway() {
  settle --test gateway
  use_programs
  tests "Gateway tests, with real servers and clients" cargo test --locked --test gateway -- --test-threads 4 ${filter[@]+"${filter[@]}"}
}

cluster() {
  settle --test cluster
  use_cluster || return 0
  use_programs
  # These tests mostly wait.
  tests "Cluster tests, on a real API server" \
    cargo test --locked --test cluster -- --test-threads 4 ${filter[@]+"${filter[@]}"} ${SHOW:+--nocapture}
}

# A workspace of its own, which the other checks do not see. fuzz/Cargo.toml says how to run them.
fuzz() {
  if command -v c++ >/dev/null; then
    check "Fuzz targets build" cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz
  else
    skip "the build of the fuzz targets: there is no C++ compiler (c++), which libFuzzer needs"
  fi
}

e2e() {
  local why
  if left_out e2e; then skip "the end-to-end run on a cluster with pods: PORTCULLIS_SKIP says so"; return; fi
  why=$(bash tests/setup/node-packages.sh --check)
  if [[ -n $why ]]; then skip "the end-to-end run on a cluster with pods: $why"; return; fi
  installed e2e || return 0
  check "End to end, on a cluster with pods" bash tests/e2e/run.sh e2e
}

# at_another_time WHEN SUITE...: runs the suites with the clock of the tests, and of all they start, set to WHEN.
at_another_time() {
  local when=$1 suite run
  shift
  run=$(bash tests/clock.sh "$when") || { fail "the clock could not be set to $when"; return; }
  for suite in "$@"; do
    case $suite in
      unit) tests "Unit tests, $when" env "$run" cargo test --locked --lib --bins -- ${filter[@]+"${filter[@]}"} ;;
      offline) tests "Offline tests, $when" env "$run" cargo test --locked --test offline -- ${filter[@]+"${filter[@]}"} ;;
      gateway) tests "Gateway tests, $when" env "$run" cargo test --locked --test gateway -- ${filter[@]+"${filter[@]}"} ;;
      cluster)
        tests "Cluster tests, $when" \
          env "$run" cargo test --locked --test cluster -- --test-threads 4 ${filter[@]+"${filter[@]}"}
        ;;
      approvals)
        tests "Cluster tests about approvals, $when" \
          env "$run" cargo test --locked --test cluster -- --test-threads 4 chart::admission::approvals operator::approvals
        ;;
    esac
  done
}

can_change_clock() {
  local why
  why=$(bash tests/clock.sh --check)
  if [[ -n $why ]]; then skip "the tests at another time: $why"; return 1; fi
}

# Whole suites, at both times. The end-to-end run is left out: its node takes the time from the kernel.
clock() {
  local suites=(unit offline gateway) when
  can_change_clock || return 0
  use_programs
  if use_cluster; then suites+=(cluster); fi
  skip "the end-to-end run at another time: its node (containerd, runc) takes the time from the kernel"
  for when in "+1 year" "2026-02-28T23:59"; do at_another_time "$when" "${suites[@]}"; done
}

# What has failed by the date before, and all that costs only seconds.
clock-short() {
  local suites=(unit offline)
  can_change_clock || return 0
  if use_cluster; then suites+=(approvals); fi
  at_another_time "+1 year" "${suites[@]}"
  at_another_time "2026-02-28T23:59" unit offline
}

command -v cargo >/dev/null || { echo "error: cargo is missing; install Rust 1.95 or newer with rustup" >&2; exit 1; }
for part in "${parts[@]}"; do
  case $part in
    lint | lint-docs | unit | offline | gateway | cluster | fuzz | e2e | clock | clock-short) ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
start_installs
for part in "${parts[@]}"; do "$part"; done
finish
