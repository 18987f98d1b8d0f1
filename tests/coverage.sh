#!/usr/bin/env bash
# How much of the operator the unit tests reach, without a cluster: a table of src/controller, one file a line.
#
#   tests/coverage.sh
#
# Counts the lines of the code itself, not those of the tests in the same file. Fails when a file is below the least share, or when
# one of the exceptions below no longer needs to be one.
#
# Takes: nothing. It needs rustup's component llvm-tools, and adds it; it is of the same release as the compiler, so there is nothing
#   else to pin. It builds into a folder of the cache (${PORTCULLIS_CACHE:-~/.cache/portcullis}), so that target/ stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup/common.sh

# Of the lines of each file, in percent.
least=85

# Files that may stay below, with the reason.
exceptions=(
  "run.rs: puts the parts together; the cluster tests run it"
)

llvm=$(rustc --print target-libdir)/../bin
has_llvm() { [[ -x $llvm/llvm-cov && -x $llvm/llvm-profdata ]]; }
if ! has_llvm; then
  command -v rustup >/dev/null || die "llvm-cov is missing; install Rust with rustup, which offers the component llvm-tools"
  rustup component add llvm-tools >&2
  has_llvm || die "rustup's component llvm-tools has no llvm-cov in $llvm"
fi

# lcov's records, without the lines from the tests at the end of a file on: "FILE LINES COVERED".
lines_of_code() {
  awk -v root="$PWD/src/controller/" '
    /^SF:/ {
      path = substr($0, 4)
      file = index(path, root) == 1 ? substr(path, length(root) + 1) : ""
      if (file ~ /(^|\/|_)tests(\.rs|\/)/ || file == "testing.rs" || file == "runtime/scripted.rs") file = ""
      end = 0
      if (file != "") {
        number = 0
        while ((getline line < path) > 0) {
          number++
          if (line == "#[cfg(test)]") { end = number; break }
        }
        close(path)
        lines[file] += 0
      }
    }
    /^DA:/ && file != "" {
      split(substr($0, 4), at, ",")
      if (end && at[1] >= end) next
      lines[file]++
      if (at[2] > 0) covered[file]++
    }
    END { for (file in lines) if (lines[file]) print file, lines[file], covered[file] + 0 }
  ' "$1" | LC_ALL=C sort
}

folder=$cache/coverage
mkdir -p "$folder"
# Only our own code is instrumented (rustc book, "Instrumentation-based code coverage"): dependencies are built as ever.
printf '#!/bin/sh\nexec "$@" -C instrument-coverage\n' >"$folder/instrumented"
chmod +x "$folder/instrumented"
profiles=$(mktemp -d "${TMPDIR:-/tmp}/portcullis-coverage.XXXXXX")
trap 'rm -rf "$profiles"' EXIT
export CARGO_INCREMENTAL=1 CARGO_TARGET_DIR=$folder RUSTC_WORKSPACE_WRAPPER=$folder/instrumented
export LLVM_PROFILE_FILE=$profiles/%p-%m.profraw
# The build's own programs are instrumented too: only what the tests reach counts.
cargo test --locked -p portcullis --lib --no-run --message-format json >"$profiles/messages"
binary=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$profiles/messages" | tail -n 1)
rm -f "$profiles"/*.profraw
cargo test --locked -p portcullis --lib -- controller::
"$llvm/llvm-profdata" merge -sparse "$profiles"/*.profraw -o "$profiles/all"
"$llvm/llvm-cov" export --format=lcov --instr-profile="$profiles/all" "$binary" --sources src/controller >"$profiles/lcov"
report=$(lines_of_code "$profiles/lcov")
[[ -n $report ]] || die "no file of src/controller is in the profile of $binary"

printf '\n%-42s %6s %8s %8s\n' "src/controller/" lines covered percent
below=0 all=0 reached=0
while read -r file lines covered; do
  all=$((all + lines)) reached=$((reached + covered))
  excepted=
  for one in "${exceptions[@]}"; do if [[ ${one%%:*} == "$file" ]]; then excepted=${one#*: }; fi; done
  note=
  if (( covered * 100 < lines * least )); then
    if [[ -n $excepted ]]; then note="excepted: $excepted"; else note="below $least %"; below=$((below + 1)); fi
  elif [[ -n $excepted ]]; then
    note="no exception any more: remove it from tests/coverage.sh"
    below=$((below + 1))
  fi
  printf '%-42s %6d %8d %7.1f%%  %s\n' "$file" "$lines" "$covered" "$((covered * 1000 / lines))e-1" "$note"
done <<<"$report"
printf '%-42s %6d %8d %7.1f%%\n' "together" "$all" "$reached" "$((reached * 1000 / all))e-1"
if (( below > 0 )); then die "$below files are below $least % of their lines; test them, or list them above with the reason"; fi
