#!/usr/bin/env bash
# Portcullis on a cluster with real pods, from its own chart, Dockerfile and examples.
#
#   make e2e                     on a one-node cluster that is made for it (needs root on Linux); every step is checked
#   make demo-cluster            the same as a show: what a person would type, and what came back. Uses kind or minikube if
#                                Docker answers and one of them is here, else the one-node cluster
#   tests/e2e/run.sh prepare     only downloads and builds what the one-node cluster and its images need, into the cache
#   make demo-cluster KEEP=1     leaves the cluster running, and prints the KUBECONFIG to use
#
# PROVIDER=node|kind|minikube chooses the cluster. BINARIES=DIR takes static programs from a folder. LOGS=DIR gets the logs
# of the node's programs when something fails (default: a folder below the cache). Nothing is left running without KEEP=1,
# after a failure or Ctrl-C neither.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/setup/common.sh
mode=${1:-e2e}
cluster_name=portcullis-demo

docker_answers() { command -v docker >/dev/null && docker info >/dev/null 2>&1; }

choose_provider() {
  if [[ -n ${PROVIDER:-} ]]; then provider=$PROVIDER; return; fi
  provider=node
  if [[ $mode == demo ]] && docker_answers; then
    if command -v kind >/dev/null; then provider=kind; elif command -v minikube >/dev/null; then provider=minikube; fi
  fi
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# Another name for the same programs, to upgrade to.
next=$version-next

# Static programs in $binaries, by a profile that is quick to build, which is most of what a first run waits for here: nothing
# is optimized, dependencies neither. A release build takes several times as long.
build_programs() {
  binaries=${BINARIES:-}
  if [[ -n $binaries ]]; then return; fi
  local target
  case $(uname -m) in
    x86_64) target=x86_64-unknown-linux-musl ;;
    aarch64) target=aarch64-unknown-linux-musl ;;
    *) die "no images are built for $(uname -m): take an x86_64 or arm64 machine" ;;
  esac
  if command -v rustup >/dev/null && ! rustup target list --installed | grep -qx "$target"; then
    say "Adding the Rust target $target"
    rustup target add "$target" >&2
  fi
  say "Building static programs (some minutes on the first run)"
  local setting settings=()
  for setting in 'inherits="dev"' opt-level=0 'package."*".opt-level=0' 'strip="symbols"' debug=false; do
    settings+=(--config "profile.e2e.$setting")
  done
  RUSTFLAGS='' CARGO_INCREMENTAL=0 cargo build --locked "${settings[@]}" --profile e2e --target "$target" \
    --target-dir "$cache/e2e/target" --bin portcullis-operator --bin portcullis-gateway --bin portcullis >&2
  binaries=$cache/e2e/target/$target/e2e
}

arguments() {
  local list=(--tag "$version" --next "$next")
  if [[ $mode == demo ]]; then list+=(--show); fi
  if [[ ${KEEP:-} == 1 ]]; then list+=(--keep); fi
  printf '%s\n' "${list[@]}"
}

# Both images as archives under both tags, in $images.
node_images() {
  local folder=$1 name tag
  images=()
  ENGINE=buildah BINARIES=$binaries BUILDAH_ISOLATION=chroot bash deploy/images.sh >"$folder/images.log" 2>&1 ||
    { tail -n 20 "$folder/images.log" >&2; die "the images could not be built"; }
  for name in portcullis-operator portcullis-gateway; do
    for tag in "$version" "$next"; do
      buildah push --quiet "localhost/$name:$version" "docker-archive:$folder/$name-$tag.tar:localhost/$name:$tag"
      images+=("$folder/$name-$tag.tar")
    done
  done
}

prepare_node() {
  bash tests/setup/node-packages.sh
  bash tests/setup/install.sh controlplane cluster-node
  bash tests/setup/node-images.sh pause coredns mlflow-mcp mlflow
  build_programs
}

on_node() {
  bash tests/setup/node-packages.sh
  build_programs
  # The steps in the order in which they fail soonest.
  local mlflow folder options
  mapfile -t mlflow < <(bash tests/setup/node-images.sh mlflow-mcp mlflow)
  (( ${#mlflow[@]} == 2 )) || exit 1
  say "Building the images of Portcullis"
  folder=$(mktemp -d /tmp/portcullis-e2e.XXXXXX)
  # shellcheck disable=SC2064
  trap "rm -rf '$folder'" EXIT
  node_images "$folder"
  mapfile -t options < <(arguments)
  export PORTCULLIS_NODE_LOGS=${LOGS:-$cache/node/logs}
  rm -rf "$PORTCULLIS_NODE_LOGS"
  if [[ ${KEEP:-} == 1 ]]; then
    local kubeconfig programs
    # Until everything has happened there is nothing to keep.
    # shellcheck disable=SC2064
    trap "bash tests/setup/node.sh stop; rm -rf '$folder'" EXIT
    trap 'exit 130' INT TERM HUP
    kubeconfig=$(bash tests/setup/node.sh start)
    eval "$kubeconfig"
    programs=$(bash tests/setup/install.sh controlplane)
    export PATH=$programs:$PATH
    bash tests/setup/node.sh load "${mlflow[@]}" "${images[@]}"
    python3 tests/e2e/e2e.py --registry localhost --tools "$programs" "${options[@]}"
    # shellcheck disable=SC2064
    trap "rm -rf '$folder'" EXIT
    say ""
    say "Stop it with: tests/setup/node.sh stop"
    return
  fi
  # shellcheck disable=SC2016
  bash tests/setup/node.sh run bash -c '
    set -euo pipefail
    count=$1; shift
    echo "Loading images" >&2
    bash tests/setup/node.sh load "${@:1:count}"
    shift "$count"
    exec python3 tests/e2e/e2e.py --registry localhost "$@"
  ' e2e "$(( ${#mlflow[@]} + ${#images[@]} ))" "${mlflow[@]}" "${images[@]}" "${options[@]}"
}

# kind or minikube, which pull their own node image and the bases of the examples' images.
on_docker() {
  local tool helm kubectl names name options
  docker_answers || die "docker does not answer (docker info): start it, or take PROVIDER=node"
  for tool in "$provider" kubectl helm python3; do
    command -v "$tool" >/dev/null || die "$tool is missing; install it, or take PROVIDER=node"
  done
  names=("portcullis-operator:$version" "portcullis-gateway:$version" "portcullis-operator:$next" "portcullis-gateway:$next"
    localhost/mlflow-mcp:0.4.1 localhost/mlflow:3.17.2)
  if [[ -n ${BINARIES:-} ]]; then export BINARIES; fi
  ENGINE=docker bash deploy/images.sh >&2
  for name in operator gateway; do docker tag "portcullis-$name:$version" "portcullis-$name:$next"; done
  docker build --file examples/images/mlflow-mcp/Dockerfile --tag localhost/mlflow-mcp:0.4.1 . >&2
  docker build --file examples/images/mlflow/Dockerfile --tag localhost/mlflow:3.17.2 . >&2

  local kubeconfig
  kubeconfig=$(mktemp "/tmp/$cluster_name.XXXXXX")
  export KUBECONFIG=$kubeconfig
  if [[ ${KEEP:-} != 1 ]]; then trap 'remove_cluster; rm -f "$KUBECONFIG"' EXIT; fi
  case $provider in
    kind)
      kind create cluster --name "$cluster_name" --wait 120s
      kind load docker-image --name "$cluster_name" "${names[@]}"
      ;;
    minikube)
      minikube start --profile "$cluster_name" --driver docker
      for name in "${names[@]}"; do minikube --profile "$cluster_name" image load "$name"; done
      ;;
  esac
  mapfile -t options < <(arguments)
  # Docker calls an image without a registry docker.io/library/NAME, and so do kubelets.
  python3 tests/e2e/e2e.py --registry '' "${options[@]}"
  if [[ ${KEEP:-} == 1 ]]; then say ""; say "Remove it with: $(remove_command)"; fi
}

remove_command() {
  case $provider in
    kind) echo "kind delete cluster --name $cluster_name" ;;
    minikube) echo "minikube delete --profile $cluster_name" ;;
  esac
}
remove_cluster() { $(remove_command) >&2 || true; }

if [[ $mode == prepare ]]; then prepare_node; exit; fi
choose_provider
case $provider in
  node) on_node ;;
  kind | minikube) on_docker ;;
  *) die "PROVIDER is node, kind or minikube, not '$provider'" ;;
esac
