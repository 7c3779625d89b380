# The container image: callplane, the certificates it trusts, its configuration with all defaults.
#
#   make image                                                       this machine's, by buildah
#   docker buildx build --platform linux/amd64,linux/arm64 .         both, compiled here, not emulated
#
# Dependencies are a layer of their own, which stays as long as Cargo.toml and Cargo.lock do.
#
# To build on one base for ever, put its digest behind the tag, `rust:1.95.0-slim-bookworm@sha256:...`;
# `docker buildx imagetools inspect rust:1.95.0-slim-bookworm` tells it. Nothing of it is in the image but
# what is linked and the certificates.

FROM --platform=$BUILDPLATFORM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
SHELL ["/bin/sh", "-euc"]

# What is compiled for: linked statically, by the gcc of that architecture.
ARG TARGETARCH
RUN here=$(dpkg --print-architecture); \
    case ${TARGETARCH:=$here} in \
    amd64) cpu=x86_64; gcc=gcc-x86-64-linux-gnu ;; \
    arm64) cpu=aarch64; gcc=gcc-aarch64-linux-gnu ;; \
    *) echo "no image is made for $TARGETARCH" >&2; exit 1 ;; \
    esac; \
    target=$cpu-unknown-linux-gnu; \
    if [ "$TARGETARCH" != "$here" ]; then \
        apt-get update; \
        apt-get install -y --no-install-recommends $gcc libc6-dev-$TARGETARCH-cross; \
        rustup target add $target; \
    fi; \
    mkdir .cargo; \
    printf '%s\n' '[build]' "target = '$target'" "[target.$target]" \
        "linker = '$cpu-linux-gnu-gcc'" "rustflags = ['-C', 'target-feature=+crt-static']" \
        > .cargo/config.toml

# The dependencies, with a program that is none. Benches are measured elsewhere.
COPY Cargo.toml Cargo.lock ./
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    sed -i '/^\[\[bench\]\]$/,$d' Cargo.toml; \
    mkdir src; \
    echo 'fn main() {}' > src/main.rs; \
    touch src/lib.rs; \
    cargo build --locked --release --bin callplane

# Sources may be older than what was built in their place.
COPY docs/openrpc.json docs/
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    touch src/main.rs src/lib.rs; \
    cargo build --locked --release --bin callplane

# All that is in the image, readable by whoever runs it; as old as SOURCE_DATE_EPOCH says.
COPY LICENSE ./
ARG SOURCE_DATE_EPOCH=0
RUN install -D target/*/release/callplane /image/callplane; \
    install -D -m 0644 src/config/default.yml /image/etc/callplane/callplane.yml; \
    install -D -m 0644 /etc/ssl/certs/ca-certificates.crt -t /image/etc/ssl/certs; \
    install -m 0644 LICENSE /image; \
    find /image -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

FROM scratch
COPY --from=build /image/ /

# The configuration is mounted here, or set by CALLPLANE_<SECTION>__<KEY>.
ENV CALLPLANE_CONFIG=/etc/callplane/callplane.yml

# Clients, operations, events of the stacks where their port is fixed.
EXPOSE 5059 9090 5065/udp
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/callplane", "healthcheck"]
ENTRYPOINT ["/callplane"]
CMD ["serve"]

ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=https://github.com/callplane/callplane
LABEL org.opencontainers.image.title="callplane" \
    org.opencontainers.image.description="A control plane for SIP calls: JSON-RPC over WebSocket in, OpenSIPS out." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.source="$SOURCE" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION"
