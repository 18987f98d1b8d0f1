#!/usr/bin/env bash
# How much of the operator the unit tests reach, without a cluster: a table of src/controller, one file a line.
#
#   tests/coverage.sh
#
# Counts the lines of the code itself, not those of the tests in the same file. Fails when a file is below the least share, or when
# one of the exceptions below no longer needs to be one.
#
# Takes: nothing. It installs cargo-llvm-cov into the cache and rustup's component llvm-tools, and builds into a folder of the
#   cache (${PORTCULLIS_CACHE:-~/.cache/portcullis}), so that target/ stays as it is. The first run takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup/common.sh

# Of the lines of each file, in percent.
least=85
version=0.9.1

# Files that may stay below, with the reason.
exceptions=(
  "run.rs: puts the parts together; the cluster tests run it"
)

tools=$cache/cargo-llvm-cov-$version
install_tools() {
  (
    if command -v flock >/dev/null; then flock 9; fi
    if [[ ! -e $tools/.complete ]]; then
      with_progress "installing cargo-llvm-cov $version" "$tools.log" \
        cargo install --quiet --locked --version "$version" --root "$tools" cargo-llvm-cov
      touch "$tools/.complete"
    fi
  ) 9>"$cache/.cargo-llvm-cov.lock"
  local folder
  folder=$(rustc --print target-libdir)/../bin
  if [[ -x $folder/llvm-cov && -x $folder/llvm-profdata ]]; then return; fi
  command -v rustup >/dev/null || die "llvm-cov is missing; install Rust with rustup, which offers the component llvm-tools"
  rustup component add llvm-tools >&2
}

# lcov's records, without the lines from the tests at the end of a file on: "FILE LINES COVERED".
lines_of_code() {
  awk -v root="$PWD/src/controller/" '
    /^SF:/ {
      path = substr($0, 4)
      file = index(path, root) == 1 ? substr(path, length(root) + 1) : ""
      if (file ~ /(^|\/|_)tests(\.rs|\/)/ || file == "runtime/scripted.rs") file = ""
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

install_tools
folder=$cache/coverage
mkdir -p "$folder"
CARGO_INCREMENTAL=1 CARGO_TARGET_DIR=$folder PATH=$tools/bin:$PATH \
  cargo llvm-cov test --locked --lib --lcov --output-path "$folder/lcov" -- controller::
report=$(lines_of_code "$folder/lcov")

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
