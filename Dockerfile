# Images of the front and of the workers. One machine: compose.yaml. A cluster: k8s/.
#   docker build --target front -t vigie-front .
#   docker build --target worker -t vigie-worker .
#   docker build --target worker-gpu -t vigie-worker-gpu .
# They hold the binary, the shared libraries that it names, and nothing else: no shell, no package manager, no root. The front's is
# built without media, so it has no decoder to attack.
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG DEBIAN_IMAGE=docker.io/library/debian:bookworm-slim
ARG CUDA_IMAGE=docker.io/nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

# What a front is built with. Target folders are layers: dependencies are compiled again only when they change.
FROM ${RUST_IMAGE} AS toolchain
RUN apt-get update && apt-get install -y --no-install-recommends build-essential ca-certificates cmake pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /vigie
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
# Stand-ins for the sources that Cargo.toml names.
RUN mkdir -p src benches && echo 'fn main() {}' > src/main.rs && : > src/lib.rs \
    && for bench in $(sed -n '/^\[\[bench\]\]/{n;s/^name = "\(.*\)"$/\1/p}' Cargo.toml); do echo 'fn main() {}' > "benches/$bench.rs"; done

FROM toolchain AS front-build
RUN cargo build --release --locked --no-default-features --lib --bins
COPY src src
COPY static static
COPY models models
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --no-default-features --bins \
    && strip -o /usr/bin/vigie target/release/vigie

# What everything else is built with besides, ONNX Runtime from its wheel, and what fetches models.
FROM toolchain AS worker-build
RUN apt-get update && apt-get install -y --no-install-recommends \
      clang libavcodec-dev libavformat-dev libavutil-dev libclang-dev libopencv-core-dev libopencv-imgproc-dev libswscale-dev \
      nodejs npm python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY scripts/install.sh scripts/
RUN bash -c 'set -eu; . scripts/install.sh; install_onnxruntime'
RUN cargo build --release --locked --lib --bins
COPY src src
COPY static static
COPY benches/data benches/data
COPY models models
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bins \
    && strip -o /usr/bin/vigie target/release/vigie

FROM worker-build AS models
RUN vigie models pull default ocr --models /models && chmod -R a+rX /models .vigie/onnxruntime

# Roots of the images: the binary with the libraries that the loader asks for.
FROM front-build AS front-root
COPY scripts/image-root scripts/
RUN scripts/image-root /root-of /usr/bin/vigie

FROM models AS worker-root
COPY scripts/image-root scripts/
RUN mkdir -p /root-of/opt/vigie && cp -r .vigie/onnxruntime /models /root-of/opt/vigie/ \
    && (cd /root-of/opt/vigie/onnxruntime && ln -s libonnxruntime.so.* libonnxruntime.so) \
    && scripts/image-root /root-of /usr/bin/vigie /root-of/opt/vigie/onnxruntime/*.so*

FROM scratch AS front
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="vigie front" \
      org.opencontainers.image.description="Pages and signalling of vigie, real-time recognition over WebRTC" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION}
COPY --from=front-root /root-of /
USER 65532:65532
ENV VIGIE_LISTEN=0.0.0.0:8080
EXPOSE 8080/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/bin/vigie", "health"]
ENTRYPOINT ["/usr/bin/vigie"]
CMD ["signal"]

FROM scratch AS worker
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="vigie worker" \
      org.opencontainers.image.description="Media worker of vigie, real-time recognition over WebRTC" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION}
COPY --from=worker-root /root-of /
USER 65532:65532
ENV ORT_DISABLE_TELEMETRY=1 VIGIE_CONTROL=0.0.0.0:8090 VIGIE_MODELS=/opt/vigie/models VIGIE_ORT_LIBRARY=/opt/vigie/onnxruntime/libonnxruntime.so
EXPOSE 8090/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/usr/bin/vigie", "health"]
ENTRYPOINT ["/usr/bin/vigie"]
CMD ["worker"]

# The same binary beside CUDA, cuDNN and the GPU build of ONNX Runtime. Not run by the project's tests, which have no GPU.
FROM ${DEBIAN_IMAGE} AS onnxruntime-gpu
ARG ONNXRUNTIME_VERSION=1.31.1
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 python3-pip unzip \
    && python3 -m pip download --no-deps --only-binary=:all: --dest /wheel "onnxruntime-gpu==$ONNXRUNTIME_VERSION" \
    && mkdir -p /opt/vigie/onnxruntime && cd /opt/vigie/onnxruntime \
    && unzip -qj /wheel/onnxruntime_gpu-*.whl 'onnxruntime/capi/libonnxruntime*.so*' onnxruntime/LICENSE onnxruntime/ThirdPartyNotices.txt \
    && ln -s "libonnxruntime.so.$ONNXRUNTIME_VERSION" libonnxruntime.so && rm -r /wheel

# Debian's libraries stand apart from those of the base image, whose newer C and C++ libraries serve both.
FROM worker-root AS gpu-parts
RUN mkdir -p /parts/lib && mv /root-of/opt/vigie/models /parts/models && mv /root-of/usr/bin/vigie /parts/ \
    && find /root-of -name '*.so*' ! -path '*/onnxruntime/*' ! -name 'ld-linux*' ! -name 'libc.so*' ! -name 'libm.so*' \
         ! -name 'libpthread*' ! -name 'libdl*' ! -name 'librt*' ! -name 'libresolv*' ! -name 'libstdc++*' ! -name 'libgcc_s*' -exec mv -t /parts/lib {} +

FROM ${CUDA_IMAGE} AS worker-gpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="vigie worker, CUDA" \
      org.opencontainers.image.description="Media worker of vigie for NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION}
COPY --from=onnxruntime-gpu /opt/vigie/onnxruntime /opt/vigie/onnxruntime
COPY --from=gpu-parts /parts/lib /opt/vigie/lib
COPY --from=gpu-parts /parts/models /opt/vigie/models
COPY --from=gpu-parts /parts/vigie /usr/bin/vigie
USER 65532:65532
ENV ORT_DISABLE_TELEMETRY=1 LD_LIBRARY_PATH=/opt/vigie/lib:/opt/vigie/onnxruntime VIGIE_CONTROL=0.0.0.0:8090 VIGIE_MODELS=/opt/vigie/models \
    VIGIE_ORT_LIBRARY=/opt/vigie/onnxruntime/libonnxruntime.so VIGIE_ENGINE_CACHE=/tmp/engines NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
EXPOSE 8090/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["/usr/bin/vigie", "health"]
ENTRYPOINT ["/usr/bin/vigie"]
CMD ["worker"]
