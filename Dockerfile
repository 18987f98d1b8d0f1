# Images of the operator, the gateway and the command line. Each holds one static program and the public certificate
# authorities, nothing else, and runs as user 65532. `make images` builds all three; by hand:
#
#   docker build --target operator .           builds the programs in here (pulls BUILDER, Debian packages and crates)
#   docker build --target operator --build-arg BINARIES=prebuilt DIR
#                                              takes them from DIR/dist and pulls nothing
#
# Targets: operator, gateway, cli.
ARG BUILDER=docker.io/library/rust:1.95-bookworm
ARG BINARIES=build

# Ready-made programs: static ones for this architecture, and ca-certificates.crt.
FROM scratch AS prebuilt
COPY dist/ /dist/

FROM ${BUILDER} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates musl-tools \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
# Cargo wants the files of every target that the manifest names, built or not.
COPY tests ./tests
COPY benches ./benches
RUN set -eu; target="$(uname -m)-unknown-linux-musl"; \
    rustup target add "$target"; \
    cargo build --release --locked --target "$target" \
      --bin portcullis-operator --bin portcullis-gateway --bin portcullis; \
    mkdir /dist; \
    for program in portcullis-operator portcullis-gateway portcullis; do \
      cp "target/$target/release/$program" /dist/; \
    done; \
    cp /etc/ssl/certs/ca-certificates.crt /dist/

FROM ${BINARIES} AS binaries

# What all three have in common. Gateways need the authorities for https servers without a certificate of their own
# (upstream.http.tls.caSecretRef); an image FROM scratch has none.
FROM scratch AS base
ARG VERSION=unknown
LABEL org.opencontainers.image.vendor="Portcullis" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=binaries /dist/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532

FROM base AS operator
LABEL org.opencontainers.image.title="portcullis-operator"
COPY --from=binaries --chmod=0755 /dist/portcullis-operator /portcullis-operator
ENTRYPOINT ["/portcullis-operator"]

FROM base AS gateway
LABEL org.opencontainers.image.title="portcullis-gateway"
COPY --from=binaries --chmod=0755 /dist/portcullis-gateway /portcullis-gateway
ENTRYPOINT ["/portcullis-gateway"]

FROM base AS cli
LABEL org.opencontainers.image.title="portcullis"
COPY --from=binaries --chmod=0755 /dist/portcullis /portcullis
ENTRYPOINT ["/portcullis"]
