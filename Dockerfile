# syntax=docker/dockerfile:1

# Build stage: caches dependencies between builds; the profile is the one that is shipped.
FROM rust:1.95-slim-trixie AS build
WORKDIR /build
# Leaves out rust-toolchain.toml, which would download a toolchain other than that of the image.
COPY Cargo.toml Cargo.lock ./
COPY migrations migrations
COPY config config
COPY benches benches
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --locked --profile dist --bin meteor \
    && install -D target/dist/meteor /out/meteor \
    && install -d -m 0700 -o 65532 -g 65532 /out/data

# Run stage: one binary, root certificates for upstreams, and a data folder.
FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/meteor /usr/local/bin/meteor
COPY --from=build --chown=65532:65532 /out/data /data

USER 65532:65532
WORKDIR /
VOLUME /data
# The gateway listens on all addresses of the container. Publish the admin port with care:
# -p 8080:8080 -p 127.0.0.1:8081:8081
ENV METEOR__DATA__FOLDER=/data \
    METEOR__PROXY__LISTEN=0.0.0.0:8080 \
    METEOR__ADMIN__LISTEN=0.0.0.0:8081
EXPOSE 8080 8081
# SIGTERM lets open calls finish: set the stop timeout to at least proxy.drain_timeout_ms.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["meteor", "health"]
ENTRYPOINT ["meteor"]
CMD ["serve"]
