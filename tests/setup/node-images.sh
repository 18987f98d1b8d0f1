#!/usr/bin/env bash
# Builds, once, the images that the one-node cluster runs and that no registry is asked for, and keeps them as docker-archive
# files. Needs root, and what node-packages.sh installs.
#
#   tests/setup/node-images.sh NAME...     NAME: pause | coredns | mlflow-mcp | mlflow
#
# Prints the file of each, one a line: ${PORTCULLIS_CACHE:-~/.cache/portcullis}/node/images/NAME-<hash of what it is made
# from>.tar. The image in it has the name under which the manifests here and examples/ ask for it. pause and coredns are
# one static program each; mlflow-mcp and mlflow are built from examples/images on a small Debian made by debootstrap.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
export PATH=$PATH:/usr/sbin:/sbin
. "$here/common.sh"
archives=$cache/node/images
mkdir -p "$archives"

codename() { (. /etc/os-release && printf '%s' "$VERSION_CODENAME"); }
base() { printf 'localhost/portcullis-python:%s' "$(codename)"; }

# Everything that an image is made from.
key_of() {
  case $1 in
    pause) cat "$here/node-images/pause/main.go" "$here/node-images/Dockerfile"; go env GOVERSION ;;
    coredns) cat "$here/node-images/Dockerfile"; basename "$(bash "$here/install.sh" cluster-node)" ;;
    mlflow-mcp) cat examples/images/mlflow-mcp/Dockerfile tests/setup/requirements/mlflow-mcp.txt; base ;;
    mlflow) cat examples/images/mlflow/Dockerfile tests/setup/requirements/mlflow-official.txt; base ;;
  esac | sha12
}

name_of() {
  case $1 in
    pause | coredns) printf 'localhost/%s:1' "$1" ;;
    # As examples/quickstart/server.yaml says.
    mlflow-mcp) sed -n 's/^ *image: *//p' examples/quickstart/server.yaml ;;
    mlflow) printf 'localhost/mlflow:%s' "$(sed -n 's/.*image.version="\([^"]*\)".*/\1/p' examples/images/mlflow/Dockerfile)" ;;
  esac
}

# This machine's own distribution, from where apt gets it.
make_base() {
  if buildah inspect --type image "$(base)" >/dev/null 2>&1; then return; fi
  local mirror folder container
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
    awk -v codename="$(codename)" '$2 == codename { print $1; exit }')
  folder=$(mktemp -d /tmp/portcullis-base.XXXXXX)
  # shellcheck disable=SC2064
  trap "rm -rf '$folder'" EXIT
  # dpkg need not wait for the disk after each file: what does not come to its end is made again.
  DPKG_FORCE=unsafe-io with_progress "making a small $(codename) with Python" "$archives/base.log" \
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$(codename)" "$folder/root" ${mirror:+"$mirror"}
  rm -rf "$folder"/root/var/cache/apt/* "$folder"/root/var/lib/apt/lists/* "$folder"/root/usr/share/{doc,man,locale}/*
  container=$(buildah from scratch)
  # shellcheck disable=SC2064
  trap "buildah rm '$container' >/dev/null 2>&1; rm -rf '$folder'" EXIT
  with_progress "making an image of it" "$archives/base.log" buildah add "$container" "$folder/root" /
  buildah commit --rm --quiet "$container" "$(base)" >/dev/null
  rm -rf "$folder"
  trap - EXIT
}

# python_image NAME TAG: from examples/images/NAME.
python_image() {
  local folder=examples/images/$1 options=() file
  make_base
  # What this machine needs to reach PyPI, if it needs anything, for the build only.
  for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
    if [[ -s $file ]]; then options+=(--volume "$file:$file:ro"); fi
  done
  if [[ -n ${PIP_INDEX_URL:-} ]]; then options+=(--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL"); fi
  with_progress "building the image of $1" "$archives/$1.log" \
    buildah bud --isolation chroot --build-arg "BASE=$(base)" ${options[@]+"${options[@]}"} \
    --file "$folder/Dockerfile" --ignorefile "$folder/Dockerfile.dockerignore" --tag "$2" .
}

# program_image NAME PROGRAM TAG
program_image() {
  local context
  context=$(mktemp -d /tmp/portcullis-image.XXXXXX)
  # shellcheck disable=SC2064
  trap "rm -rf '$context'" EXIT
  cp "$2" "$context/program"
  with_progress "building the image of $1" "$archives/$1.log" \
    buildah bud --isolation chroot --file "$here/node-images/Dockerfile" --tag "$3" "$context"
  rm -rf "$context"
}

make_image() {
  local name=$1 tag=$2 program
  case $name in
    pause)
      program=$(mktemp)
      GO111MODULE=off CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$program" "$here/node-images/pause/main.go"
      program_image pause "$program" "$tag"
      rm -f "$program"
      ;;
    coredns) program_image coredns "$(bash "$here/install.sh" cluster-node)/coredns" "$tag" ;;
    *) python_image "$name" "$tag" ;;
  esac
}

# remove_older NAME FILE: the archives of NAME that another recipe made. Names end with twelve digits of a hash, so that
# those of `mlflow` are not taken for those of `mlflow-mcp`.
remove_older() {
  local digit='[0-9a-f]' other
  for other in "$archives/$1"-$digit$digit$digit$digit$digit$digit$digit$digit$digit$digit$digit$digit.tar; do
    if [[ $other != "$2" ]]; then rm -f "$other"; fi
  done
}

(( $# > 0 )) || { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=${STORAGE_DRIVER:-overlay}
for name in "$@"; do
  case $name in pause | coredns | mlflow-mcp | mlflow) ;; *) die "unknown name '$name'" ;; esac
  file=$archives/$name-$(key_of "$name").tar
  (
    # The archives are this cache's, but buildah's store is the machine's, with one image for each tag.
    flock 9
    flock 8
    if [[ ! -e $file ]]; then
      tag=$(name_of "$name")
      make_image "$name" "$tag"
      # One that was not finished has no place here: it could be taken for the image.
      rm -f "$file.part"
      with_progress "writing $(basename "$file")" "$archives/$name.log" buildah push --quiet "$tag" "docker-archive:$file.part:$tag"
      mv "$file.part" "$file"
      remove_older "$name" "$file"
      # The archive is enough; the base stays for the next image.
      buildah rmi "$tag" >/dev/null 2>&1 || true
    fi
  ) 9>"$archives/.lock" 8>"$(machine_lock images)"
  printf '%s\n' "$file"
done
