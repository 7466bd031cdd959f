# Images of the front and of the workers. One machine: compose.yaml. A cluster: k8s/.
#   docker build --target front -t vigie-front .
#   docker build --target worker -t vigie-worker .
#   docker build --target worker-gpu -t vigie-worker-gpu .
# They hold the binary, the shared libraries that it names, and nothing else: no shell, no package manager, no root.
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG DEBIAN_IMAGE=docker.io/library/debian:bookworm-slim
ARG CUDA_IMAGE=docker.io/nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

# What the binary is built with.
FROM ${RUST_IMAGE} AS toolchain
RUN apt-get update && apt-get install -y --no-install-recommends \
      build-essential ca-certificates clang cmake libavcodec-dev libavformat-dev libavutil-dev libclang-dev \
      libopencv-core-dev libopencv-imgproc-dev libswscale-dev nodejs npm pkg-config python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /vigie
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
# The dependencies alone: this layer stays until they change.
RUN mkdir -p src benches && echo 'fn main() {}' > src/main.rs && : > src/lib.rs \
    && sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | tail -n +2 | while read -r bench; do echo 'fn main() {}' > "benches/$bench.rs"; done

FROM toolchain AS build
RUN cargo build --release --locked --lib --bins
COPY src src
COPY static static
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bins && strip target/release/vigie

# ONNX Runtime from its wheel, and the default models.
FROM build AS models
COPY scripts scripts
COPY models models
RUN bash -c 'set -eu; . scripts/install.sh; install_onnxruntime' \
    && target/release/vigie models pull default ocr --models /models \
    && chmod -R a+rX /models .vigie/onnxruntime

# Roots of the images: the binary with the libraries that the loader asks for.
FROM build AS front-root
RUN libraries=$(ldd target/release/vigie | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | sort -u) \
    && mkdir -p /root-of/usr/bin /root-of/tmp /root-of/etc/ssl/certs \
    && for library in $libraries; do cp -L --parents "$library" /root-of; done \
    && cp target/release/vigie /root-of/usr/bin/ \
    && cp /etc/ssl/certs/ca-certificates.crt /root-of/etc/ssl/certs/ \
    && printf 'vigie:x:65532:65532::/:/sbin/nologin\n' > /root-of/etc/passwd \
    && chmod 1777 /root-of/tmp

FROM models AS worker-root
RUN libraries=$(ldd target/release/vigie .vigie/onnxruntime/*.so* | awk '$3 ~ /^\// { print $3 } $1 ~ /^\/lib/ { print $1 }' | tr -d ':' | sort -u) \
    && mkdir -p /root-of/usr/bin /root-of/tmp /root-of/etc/ssl/certs /root-of/opt/vigie/onnxruntime \
    && for library in $libraries; do cp -L --parents "$library" /root-of; done \
    && cp target/release/vigie /root-of/usr/bin/ \
    && cp .vigie/onnxruntime/* /root-of/opt/vigie/onnxruntime/ \
    && cp -r /models /root-of/opt/vigie/models \
    && cp /etc/ssl/certs/ca-certificates.crt /root-of/etc/ssl/certs/ \
    && printf 'vigie:x:65532:65532::/:/sbin/nologin\n' > /root-of/etc/passwd \
    && chmod 1777 /root-of/tmp

FROM scratch AS front
LABEL org.opencontainers.image.title="vigie front" \
      org.opencontainers.image.description="Pages and signalling of vigie, real-time recognition over WebRTC" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
COPY --from=front-root /root-of /
USER 65532:65532
ENV VIGIE_LISTEN=0.0.0.0:8080
EXPOSE 8080/tcp
ENTRYPOINT ["/usr/bin/vigie"]
CMD ["signal"]

FROM scratch AS worker
LABEL org.opencontainers.image.title="vigie worker" \
      org.opencontainers.image.description="Media worker of vigie, real-time recognition over WebRTC" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
COPY --from=worker-root /root-of /
USER 65532:65532
ENV ORT_DISABLE_TELEMETRY=1 VIGIE_CONTROL=0.0.0.0:8090 VIGIE_MODELS=/opt/vigie/models VIGIE_ORT_LIBRARY=/opt/vigie/onnxruntime/libonnxruntime.so
EXPOSE 8090/tcp
ENTRYPOINT ["/usr/bin/vigie"]
CMD ["worker"]

# The same binary beside CUDA, cuDNN and the GPU build of ONNX Runtime. Not run by the project's tests, which have no GPU.
FROM ${DEBIAN_IMAGE} AS onnxruntime-gpu
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip unzip \
    && python3 -m pip download --no-deps --only-binary=:all: --dest /wheel onnxruntime-gpu==1.31.1 \
    && mkdir -p /opt/vigie/onnxruntime && cd /opt/vigie/onnxruntime \
    && unzip -qj /wheel/onnxruntime_gpu-*.whl 'onnxruntime/capi/*.so*' onnxruntime/LICENSE onnxruntime/ThirdPartyNotices.txt \
    && rm -f onnxruntime_pybind11_state*.so

FROM ${CUDA_IMAGE} AS worker-gpu
LABEL org.opencontainers.image.title="vigie worker, CUDA" \
      org.opencontainers.image.description="Media worker of vigie for NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
# Debian's libraries stand apart from the base image's own.
COPY --from=worker-root /root-of /opt/vigie-root
COPY --from=onnxruntime-gpu /opt/vigie/onnxruntime /opt/vigie/onnxruntime
RUN mv /opt/vigie-root/opt/vigie/models /opt/vigie/models && rm -rf /opt/vigie-root/opt \
    && mkdir -p /opt/vigie/lib && find /opt/vigie-root -name '*.so*' ! -name 'ld-linux*' ! -name 'libc.so*' ! -name 'libm.so*' \
         ! -name 'libpthread*' ! -name 'libdl*' ! -name 'librt*' -exec mv -t /opt/vigie/lib {} + \
    && mv /opt/vigie-root/usr/bin/vigie /usr/bin/vigie && rm -rf /opt/vigie-root
USER 65532:65532
ENV ORT_DISABLE_TELEMETRY=1 LD_LIBRARY_PATH=/opt/vigie/lib:/opt/vigie/onnxruntime VIGIE_CONTROL=0.0.0.0:8090 VIGIE_MODELS=/opt/vigie/models \
    VIGIE_ORT_LIBRARY=/opt/vigie/onnxruntime/libonnxruntime.so.1.31.1 NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
EXPOSE 8090/tcp
ENTRYPOINT ["/usr/bin/vigie"]
CMD ["worker"]
