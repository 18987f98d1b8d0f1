#!/usr/bin/env bash
# Installs the Debian packages that a node with pods (node.sh) and its images (node-images.sh) need: only those that are
# missing, and only as root. Prints nothing when all are there.
#
#   tests/setup/node-packages.sh           installs what is missing
#   tests/setup/node-packages.sh --check   says why this machine cannot run a node, on standard output; nothing if it can
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

# program:package
needed=(containerd:containerd ctr:containerd runc:runc /usr/lib/cni/ptp:containernetworking-plugins nft:nftables
  conntrack:conntrack iptables:iptables ip:iproute2 buildah:buildah debootstrap:debootstrap openssl:openssl musl-gcc:musl-tools)

missing() {
  local entry
  for entry in "${needed[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${entry%%:*}" >/dev/null || printf '%s\n' "${entry##*:}"
  done | sort -u
}

# Why not, in one line.
why_not() {
  if [[ $(uname -s) != Linux ]]; then echo "it does not run Linux"; return; fi
  if (( EUID != 0 )); then echo "a node with pods needs root: run it with sudo"; return; fi
  local program
  for program in go cargo python3; do
    command -v "$program" >/dev/null || { echo "$program is missing"; return; }
  done
  if [[ ! -d /sys/fs/cgroup/memory && ! -w /sys/fs/cgroup/cgroup.procs ]]; then
    echo "there are no cgroups to write to below /sys/fs/cgroup"; return
  fi
  if ! grep -qw overlay /proc/filesystems; then echo "its kernel has no overlay file system"; return; fi
  if ! unshare --net --mount --pid --fork true 2>/dev/null; then echo "it may not make namespaces"; return; fi
  if [[ -n $(missing) ]] && ! command -v apt-get >/dev/null; then
    echo "these are missing, and there is no apt-get to install them with: $(missing | tr '\n' ' ')"
  fi
}

if [[ ${1:-} == --check ]]; then why_not; exit 0; fi
why=$(why_not)
if [[ -n $why ]]; then say "error: this machine cannot run a node with pods: $why"; exit 1; fi
mapfile -t packages < <(missing)
if (( ${#packages[@]} == 0 )); then exit 0; fi
say "Installing with apt-get: ${packages[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "${packages[@]}" >"$log" 2>&1; }
# The lists of packages may be missing or old.
if ! install && ! { apt-get update >"$log" 2>&1 && install; }; then
  tail -n 15 "$log" >&2
  say "error: apt-get could not install ${packages[*]}"
  exit 1
fi
