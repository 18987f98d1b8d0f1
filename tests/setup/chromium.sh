#!/usr/bin/env bash
# Unpacks Debian's headless Chromium, with the libraries that this machine lacks, into a folder. Needs no root.
#
#   tests/setup/chromium.sh --check    says why this machine cannot have it, on standard output; nothing if it can
#   tests/setup/chromium.sh --version  the version that apt offers
#   tests/setup/chromium.sh FOLDER     leaves the program FOLDER/chromium
#
# The version is the newest that apt offers: Debian removes the older ones, so none can be pinned.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

names=(chromium-headless-shell chromium)
# Package lists of our own, for a machine whose lists are missing or old: only root may renew those.
own=$cache/.apt
options=()
use_own_lists() {
  mkdir -p "$own/lists/partial" "$own/archives/partial"
  options=(-o "Dir::State::lists=$own/lists" -o "Dir::Cache=$own" -o APT::Sandbox::User=)
}
renew_lists() {
  use_own_lists
  apt-get "${options[@]}" -q update >&2
}

# offered NAME: its version; empty where apt has none.
offered() {
  LC_ALL=C apt-cache ${options[@]+"${options[@]}"} policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \([0-9].*\)/\1/p'
}

# The first of the packages that apt has, as NAME VERSION. Ubuntu's `chromium` is an empty package that needs snap.
candidate() {
  local name version
  for name in "${names[@]}"; do
    version=$(offered "$name")
    if [[ -n $version && $version != *snap* ]]; then printf '%s %s\n' "$name" "$version"; return; fi
  done
  return 1
}

find_candidate() {
  candidate && return
  if [[ -d $own/lists ]]; then use_own_lists; fi
  candidate && return
  renew_lists 2>/dev/null && candidate
}

why_not() {
  local program
  for program in apt-get apt-cache dpkg; do
    command -v "$program" >/dev/null || { echo "there is no Chromium on PATH, and no $program to get one with"; return; }
  done
  find_candidate >/dev/null || echo "there is no Chromium on PATH, and apt has no package of it"
}

# What apt would install for a package, less what it would only renew: the machine has that. apt-get says `Inst NAME`,
# and then the installed version in brackets if there is one.
needed() {
  LC_ALL=C apt-get ${options[@]+"${options[@]}"} install --simulate --no-install-recommends "$1" 2>/dev/null \
    | awk '/^Inst / && $3 !~ /^\[/ { print $2 }'
}

download() {
  local folder=$1 name=$2 packages
  rm -rf "$folder/packages"
  mkdir -p "$folder/packages"
  mapfile -t packages < <(needed "$name")
  (( ${#packages[@]} > 0 )) || packages=("$name")
  (cd "$folder/packages" && apt-get ${options[@]+"${options[@]}"} -q download "${packages[@]}") >&2
}

make() {
  local folder=$1 name package program libraries
  read -r name _ < <(find_candidate) || die "$(why_not)"
  download "$folder" "$name" || { renew_lists && download "$folder" "$name"; }
  for package in "$folder/packages/"*.deb; do dpkg -x "$package" "$folder/root"; done
  rm -rf "$folder/packages"
  program=$folder/root/usr/lib/chromium/$name
  [[ -x $program ]] || die "the package $name holds no program at /usr/lib/chromium/$name"
  libraries=$(find "$folder/root" -name '*.so*' -printf "%h\n" | sort -u | paste -sd:)
  cat >"$folder/chromium" <<SCRIPT
#!/bin/sh
LD_LIBRARY_PATH='$libraries' exec '$program' "\$@"
SCRIPT
  chmod +x "$folder/chromium"
}

case ${1:-} in
  --check) why_not ;;
  --version) find_candidate ;;
  '' | -*) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  *) make "$1" ;;
esac
