# syntax=docker/dockerfile:1
# The inspector on a Jetson with JetPack 7.2, the same image for Orin and Thor. On the Jetson, or with buildx for linux/arm64:
#   docker build -f docker/jetpack72.Dockerfile -t edge-ad:jetpack72 .
# CUDA 13.2, TensorRT 10.16, Python 3.12 (Jetson Linux 39.2), from the apt repository that the board itself has.
# Images with an older TensorRT of Jetson ask for libnvdla_compiler.so, which Jetson Linux 39.2 no longer has: they do not start.
ARG UBUNTU=ubuntu:24.04

FROM ${UBUNTU} AS board
# The release of the board, as in /etc/nv_tegra_release: R39, REVISION 2.0.
ARG L4T=r39.2
ADD https://repo.download.nvidia.com/jetson/jetson-ota-public.asc /usr/share/keyrings/nvidia-jetson.asc
# ca-certificates first: the repository speaks TLS alone.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && chmod 644 /usr/share/keyrings/nvidia-jetson.asc \
    && for part in common som; do \
        echo "deb [signed-by=/usr/share/keyrings/nvidia-jetson.asc] https://repo.download.nvidia.com/jetson/${part} ${L4T} main"; \
    done >/etc/apt/sources.list.d/nvidia-jetson.list

# pycuda is compiled against CUDA; compiler and headers, gigabytes, stay in this stage.
FROM board AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cuda-toolkit-13-2 python3-dev python3-pip \
        python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The OpenCV of Ubuntu is built against NumPy 1.
RUN python3 -m venv --system-site-packages /opt/edge-ad \
    && grep -vE '^(numpy|ml_dtypes)==' tools/constraints.txt >/tmp/constraints.txt \
    && echo 'numpy==1.26.4' >>/tmp/constraints.txt
ENV PATH=/opt/edge-ad/bin:/usr/local/cuda/bin:$PATH CUDA_ROOT=/usr/local/cuda
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && pip install --no-cache-dir -c /tmp/constraints.txt onnxruntime \
        "edge-ad[jetson,line,plc] @ file://$(ls /wheels/edge_ad-*.whl)"

FROM board
# Of CUDA only what TensorRT and pycuda load. libcuda and the codecs come from the host through the container runtime.
# python3-opencv has GStreamer, which the wheels of PyPI lack.
# The bindings of TensorRT are asked for by name: to import them takes the driver, which only the runtime brings.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends cuda-cudart-13-2 cuda-nvrtc-13-2 libcurand-13-2 libnvinfer10 \
        libnvinfer-plugin10 libnvonnxparsers10 python3-libnvinfer \
        gstreamer1.0-plugins-bad gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-tools python3 python3-opencv \
    && { python3 -c "import importlib.util as i, sys; sys.exit(i.find_spec('tensorrt') is None)" \
        || { echo "error: python3-libnvinfer of this repository has no TensorRT for Python 3.12: is L4T right?" >&2; exit 1; }; } \
    && rm -rf /var/lib/apt/lists/* /etc/apt/sources.list.d/nvidia-jetson.list \
    && useradd --uid 10001 --user-group --create-home edge-ad \
    && install -d -o edge-ad -g edge-ad /station
COPY --from=build /opt/edge-ad /opt/edge-ad
USER 10001:10001
WORKDIR /station
VOLUME ["/station"]
ENV PATH=/opt/edge-ad/bin:$PATH HOME=/tmp NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
# 503 when the station cannot judge or does not answer. A build or the first load of engines can take minutes.
HEALTHCHECK --interval=15s --timeout=5s --retries=3 --start-period=15m \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["edge-ad"]
CMD ["run", "--web", "0.0.0.0:8080"]
