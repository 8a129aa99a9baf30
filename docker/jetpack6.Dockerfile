# syntax=docker/dockerfile:1
# The inspector on a Jetson with JetPack 6.1 or newer. On the Jetson, or with buildx for linux/arm64:
#   docker build -f docker/jetpack6.Dockerfile -t edge-ad:jetpack6 .
# CUDA 12.6, TensorRT 10.3, Python 3.10 (Jetson Linux 36.4 and 36.5).
ARG DEVEL=nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel
# Into the smaller r10.3.0-runtime owners install TensorRT's bindings for Python by hand, from NVIDIA's apt repository.
ARG RUNTIME=nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel

# pycuda is compiled against CUDA; the compiler stays in this stage.
FROM ${DEVEL} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends build-essential python3-dev python3-pip python3-venv \
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

FROM ${RUNTIME}
# python3-opencv has GStreamer, which the wheels of PyPI lack. NVIDIA's plugins (nvarguscamerasrc, nvv4l2decoder) come
# from the host through the container runtime.
# The bindings of TensorRT are asked for by name: to import them takes the driver, which only the runtime brings.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gstreamer1.0-plugins-bad gstreamer1.0-plugins-base \
        gstreamer1.0-plugins-good gstreamer1.0-tools python3 python3-opencv \
    && { python3 -c "import importlib.util as i, sys; sys.exit(i.find_spec('tensorrt') is None)" \
        || apt-get install -y --no-install-recommends python3-libnvinfer \
        || { echo "error: this image has no TensorRT for Python: give another with --build-arg RUNTIME=IMAGE" >&2; exit 1; }; } \
    && rm -rf /var/lib/apt/lists/* \
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
