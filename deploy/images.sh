#!/usr/bin/env bash
# Builds the images of the operator, the gateway and the command line with docker, podman or buildah.
#
#   make images [REGISTRY=registry.example/path] [PUSH=1] [VERSION=…] [ENGINE=docker|podman|buildah]
#               [BUILD=host|container | BINARIES=DIR] [CA_BUNDLE=FILE]
#
# REGISTRY   goes in front of the names; without it the images are for loading into a cluster on this machine
# PUSH=1     pushes them
# VERSION    the tag; the version in Cargo.toml if empty
# BUILD      where the programs are built: on this machine if it can build static ones, else inside of the image build
# BINARIES   a folder with static programs portcullis-operator, portcullis-gateway and portcullis: nothing is built
# CA_BUNDLE  the certificate authorities to put into the images; this machine's if empty (with BUILD=container Debian's).
#            Look into it if your machine trusts authorities that the images should not.
#
# Names of images go to standard output, one a line; everything else to standard error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

programs=(portcullis-operator portcullis-gateway portcullis)
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}
case $(uname -m) in
  x86_64 | amd64) target=x86_64-unknown-linux-musl ;;
  aarch64 | arm64) target=aarch64-unknown-linux-musl ;;
  *) die "no images are built for $(uname -m): take an x86_64 or arm64 machine" ;;
esac

find_engine() {
  if [[ -n ${ENGINE:-} ]]; then
    command -v "$ENGINE" >/dev/null || die "ENGINE=$ENGINE is not installed"
    if [[ $ENGINE == docker ]] && ! docker info >/dev/null 2>&1; then
      die "docker is here, but its engine does not answer (docker info): start it, or choose podman or buildah"
    fi
    engine=$ENGINE
  # A docker client is often there without an engine to talk to.
  elif command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    engine=docker
  elif command -v podman >/dev/null; then
    engine=podman
  elif command -v buildah >/dev/null; then
    engine=buildah
  elif command -v docker >/dev/null; then
    die "docker is here, but its engine does not answer (docker info): start it, or install podman or buildah"
  else
    die "none of docker, podman and buildah is here; on Debian or Ubuntu: apt-get install buildah"
  fi
}

# Why this machine cannot build static programs; nothing if it can.
missing_for_host() {
  if [[ $(uname -s) != Linux ]]; then echo "it does not run Linux"; return; fi
  command -v cargo >/dev/null || { echo "cargo is missing (rustup.rs)"; return; }
  if command -v rustup >/dev/null && ! rustup target list --installed | grep -qx "$target"; then
    echo "the Rust target is missing (rustup target add $target)"
  elif ! command -v musl-gcc >/dev/null && ! command -v "${target%%-*}-linux-musl-gcc" >/dev/null; then
    echo "musl-gcc is missing, which ring's C code needs (on Debian or Ubuntu: apt-get install musl-tools)"
  fi
}

ca_bundle() {
  local file
  for file in "${CA_BUNDLE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [[ -n $file && -s $file ]]; then printf '%s\n' "$file"; return; fi
    if [[ -n $file && $file == "${CA_BUNDLE:-}" ]]; then die "CA_BUNDLE=$file is no file with certificates"; fi
  done
  die "this machine has no bundle of certificate authorities; name one with CA_BUNDLE=FILE, or install ca-certificates"
}

build_on_host() {
  say "== Building static programs ($target)"
  local arguments=() program
  for program in "${programs[@]}"; do arguments+=(--bin "$program"); done
  cargo build --release --locked --target "$target" "${arguments[@]}" >&2
  folder=${CARGO_TARGET_DIR:-target}/$target/release
}

# Refuses programs that would not start in an image without libraries.
check_static() {
  local program told
  for program in "${programs[@]}"; do
    [[ -x $folder/$program ]] || die "there is no program $program in $folder"
    command -v ldd >/dev/null || continue
    # It fails for a static one.
    told=$(LC_ALL=C ldd "$folder/$program" 2>&1 || true)
    if ! grep -qE 'statically linked|not a dynamic executable' <<<"$told"; then
      die "$folder/$program is not static and would not start in an image without libraries; build it for $target"
    fi
  done
}

find_engine
if [[ -n ${BINARIES:-} ]]; then
  folder=$BINARIES
else
  why=$(missing_for_host)
  case ${BUILD:-} in
    host) [[ -z $why ]] || die "this machine cannot build static programs: $why" ;;
    container) ;;
    '')
      if [[ -n $why ]]; then
        say "The programs are built inside of the image build, as this machine cannot build static ones: $why"
        BUILD=container
      else
        BUILD=host
      fi
      ;;
    *) die "BUILD is host or container, not '$BUILD'" ;;
  esac
  if [[ $BUILD == host ]]; then build_on_host; fi
fi

options=(--build-arg "VERSION=$version")
if [[ -n ${folder:-} ]]; then
  check_static
  bundle=$(ca_bundle)
  # A folder of its own, so that only what goes into the images is sent to the engine.
  context=$(mktemp -d "${TMPDIR:-/tmp}/portcullis-images.XXXXXX")
  trap 'rm -rf "$context"' EXIT
  mkdir "$context/dist"
  for program in "${programs[@]}"; do cp "$folder/$program" "$context/dist/"; done
  cp "$bundle" "$context/dist/ca-certificates.crt"
  chmod 0644 "$context/dist/ca-certificates.crt"
  options+=(--build-arg BINARIES=prebuilt)
else
  context=.
fi

# podman and buildah put names without a registry under localhost/, which a cluster then has to be told.
registry=${REGISTRY:-}
if [[ -z $registry && $engine != docker ]]; then registry=localhost; fi
registry=${registry%/}

names=()
for program in "${programs[@]}"; do
  case $program in
    portcullis) stage=cli ;;
    *) stage=${program#portcullis-} ;;
  esac
  name=${registry:+$registry/}$program:$version
  say "== $name"
  case $engine in
    docker) DOCKER_BUILDKIT=1 docker build "${options[@]}" --target "$stage" --file Dockerfile --tag "$name" "$context" >&2 ;;
    *) "$engine" build "${options[@]}" --target "$stage" --file Dockerfile --tag "$name" "$context" >&2 ;;
  esac
  names+=("$name")
done

if [[ ${PUSH:-} == 1 ]]; then
  [[ -n ${REGISTRY:-} ]] || die "PUSH=1 needs to know where to: REGISTRY=HOST/PATH"
  for name in "${names[@]}"; do
    say "== pushing $name"
    "$engine" push "$name" >&2
  done
fi

printf '%s\n' "${names[@]}"
say ""
say "Values to install the chart with:"
values="--set operator.image.tag=$version --set gateway.image.tag=$version"
if [[ -n $registry ]]; then values="--set imageRegistry=$registry $values"; fi
say "  $values"
