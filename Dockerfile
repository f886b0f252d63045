# Larder in a container: built by its lock file, run without privileges. `docker build -t larder .`
# docker run -p 8080:8080 -e UPSTREAM=http://api:8000 -e REDIS_URL=redis://redis:6379 larder

# `--build-arg BUILD=pgo`: by its own profile (benches/README.md), for less CPU, in four times the time.

FROM rust:1-bookworm AS builder
ARG BUILD=release
RUN [ "$BUILD" != pgo ] || { \
        apt-get update && apt-get install --yes --no-install-recommends redis-server bolt-19 libbolt-19-dev \
        && rustup component add llvm-tools; \
    }
WORKDIR /larder
COPY . .
# Line tables are for profiling; without them the image is a third of the size. All crates as one: slower to build, and faster.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    CARGO_PROFILE_RELEASE_LTO=fat \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/larder/target \
    case $BUILD in \
        release) cargo build --release --locked ;; \
        pgo) ./benches/pgo ;; \
        *) echo "BUILD: release or pgo, not $BUILD" >&2; exit 2 ;; \
    esac \
    && install -D target/$BUILD/larder /out/larder

FROM debian:bookworm-slim
# Roots for rediss://. The package lists have no use in the image.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin larder
COPY --from=builder /out/larder /usr/local/bin/larder
COPY proxy.yaml /etc/larder/proxy.yaml
# A container's own loopback is nobody else's.
ENV LISTEN=0.0.0.0:8080
USER 10001
# 9180 stays on the container's loopback, where the health check asks it. To publish it, mount a proxy.yaml with
# `admin: 0.0.0.0:9180` and an `admin_token`.
EXPOSE 8080 9180
# Requests under way are finished, for up to `limits.drain` (30 s): `docker stop --time 35`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["larder", "health", "-c", "/etc/larder/proxy.yaml"]
# Also what a shell or man wants: `docker run --rm larder completions bash`.
ENTRYPOINT ["larder"]
CMD ["serve", "-c", "/etc/larder/proxy.yaml"]
