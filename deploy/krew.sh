#!/usr/bin/env bash
# Prints the krew manifest of a release: `kubectl krew install --manifest=…` installs `kubectl portcullis` from it.
#
#   deploy/krew.sh URL FOLDER > portcullis.yaml
#
# URL      where the archives of the release are, without their names
# FOLDER   a copy of them here: portcullis-OS-ARCH.tar.gz, each with the program `portcullis` and LICENSE
# VERSION  the version; the one in Cargo.toml if empty
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

[[ $# == 2 ]] || die "write: deploy/krew.sh URL FOLDER"
url=${1%/} folder=$2
[[ $url == https://* ]] || die "$url: krew downloads over https only"
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)}

cat <<YAML
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: portcullis
spec:
  version: v$version
  shortDescription: Decide calls of MLflow MCP servers that wait
  description: |
    Lists, shows, approves and denies the calls that Portcullis, a policy gateway for
    MLflow MCP servers, holds until a person has decided.

      kubectl portcullis approvals list -A --pending
      kubectl portcullis approvals show NAME -n NAMESPACE
  platforms:
YAML
found=0
for os in linux darwin; do
  for arch in amd64 arm64; do
    archive=portcullis-$os-$arch.tar.gz
    [[ -f $folder/$archive ]] || continue
    found=1
    sum=$(sha256sum "$folder/$archive")
    cat <<YAML
    - selector:
        matchLabels: { os: $os, arch: $arch }
      uri: $url/$archive
      sha256: ${sum%% *}
      bin: portcullis
      files:
        - { from: portcullis, to: . }
        - { from: LICENSE, to: . }
YAML
  done
done
[[ $found == 1 ]] || die "$folder has no portcullis-OS-ARCH.tar.gz"
