#!/usr/bin/env bash
# What can be tried on a real NVIDIA card without TensorRT, in 15 minutes: frames, captured graphs, threads, memory, faults.
# tools/release/gpu_slice.sh --fake                  here, over the driver of the tests
# tools/release/gpu_slice.sh --prepare [PYTHON]      pycuda for PYTHON (3.12) and CUDA 13 and a bundle into .cache/gpu-slice
# tools/release/gpu_slice.sh [OUT]                   on the card: needs numpy, onnxruntime and .cache/gpu-slice, no network
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
slice=.cache/gpu-slice
venv=.venv/bin/python
make_bundle() {
    [ -x "$venv" ] || { echo "error: there is no $venv yet: run tools/test.sh --collect-only first" >&2; exit 2; }
    mkdir -p "$slice"
    "$venv" -c 'import sys; from pathlib import Path; from tests.fixtures.tiny_bundle import make_tiny_bundle; make_tiny_bundle(Path(sys.argv[1]))' \
        "$slice/tiny.edgead"
}
case "${1:-}" in
    --fake)
        make_bundle
        export FAKE_CUDA_MEMORY="${FAKE_CUDA_MEMORY:-$((128 << 20))}"
        exec "$venv" tools/release/gpu_slice.py "$slice/tiny.edgead" --fake --frames "${FRAMES:-1000}" --json "${2:-$slice/fake.json}"
        ;;
    --prepare)
        make_bundle
        folder="$("${2:-python3.12}" tests/fake_cuda/build.py --cuda 13)"
        rm -rf "$slice/site" && cp -r "$folder" "$slice/site"
        du -sh "$slice"
        ;;
    *)
        [ -d "$slice/site" ] || { echo "error: there is no $slice/site: run tools/release/gpu_slice.sh --prepare first" >&2; exit 2; }
        out="${1:-$slice}"
        mkdir -p "$out"
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/card.txt"
        PYTHONPATH="$slice/site" exec "${PYTHON:-python3}" tools/release/gpu_slice.py "$slice/tiny.edgead" --frames "${FRAMES:-1000}" --json "$out/gpu_slice.json"
        ;;
esac
