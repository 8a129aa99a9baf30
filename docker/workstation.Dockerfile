# syntax=docker/dockerfile:1
# Train, export and try out. From the root of the repository:
#   docker build -f docker/workstation.Dockerfile --target cpu  -t edge-ad:cpu  .
#   docker build -f docker/workstation.Dockerfile --target cuda -t edge-ad:cuda .

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm AS cpu
COPY tools/constraints.txt /tmp/constraints.txt
COPY --from=wheel /wheels /wheels
# torch first, from the index of CPU builds: PyPI's brings 3 GB of CUDA.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu -c /tmp/constraints.txt torch==2.13.0 \
    && pip install --no-cache-dir -c /tmp/constraints.txt "edge-ad[train,line,plc] @ file://$(ls /wheels/edge_ad-*.whl)" \
    && useradd --uid 10001 --user-group --create-home edge-ad \
    && install -d -o edge-ad -g edge-ad /station
USER 10001:10001
WORKDIR /station
VOLUME ["/station"]
ENV HOME=/tmp
HEALTHCHECK NONE
ENTRYPOINT ["edge-ad"]
CMD ["--help"]

# pycuda is compiled against CUDA; the compiler stays in this stage.
FROM nvcr.io/nvidia/cuda:13.0.2-devel-ubuntu24.04 AS cuda-build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends build-essential python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/edge-ad
COPY tools/constraints.txt /tmp/constraints.txt
COPY --from=wheel /wheels /wheels
ENV PATH=/opt/edge-ad/bin:/usr/local/cuda/bin:$PATH CUDA_ROOT=/usr/local/cuda
RUN pip install --no-cache-dir -c /tmp/constraints.txt "edge-ad[train,line,plc,gpu] @ file://$(ls /wheels/edge_ad-*.whl)"

FROM nvcr.io/nvidia/cuda:13.0.2-base-ubuntu24.04 AS cuda
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libcurand-13-0 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home edge-ad \
    && install -d -o edge-ad -g edge-ad /station
COPY --from=cuda-build /opt/edge-ad /opt/edge-ad
USER 10001:10001
WORKDIR /station
VOLUME ["/station"]
ENV PATH=/opt/edge-ad/bin:$PATH HOME=/tmp NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
HEALTHCHECK NONE
ENTRYPOINT ["edge-ad"]
CMD ["--help"]
