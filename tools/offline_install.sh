#!/usr/bin/env bash
# Installs edge-ad on a Jetson from the folder that this script lies in, without internet.
#   ./install.sh [VENV]
# VENV is the virtual environment to make or fill, .venv by default. It sees JetPack's packages (TensorRT, OpenCV).
# tools/wheelhouse.sh puts this script into the folder as install.sh.
set -euo pipefail

case "${1:-}" in
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    -*) echo "error: unknown argument $1: allowed is the path of a virtual environment" >&2; exit 2 ;;
esac
fail() { echo "error: $*" >&2; exit 2; }

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="${1:-.venv}"
[ -f "$here/python.txt" ] || fail "$here is no folder of tools/wheelhouse.sh"
version="$(cat "$here/python.txt")"
[ "$(uname -m)" = aarch64 ] || fail "these wheels are for aarch64, and this is $(uname -m)"
command -v "python$version" >/dev/null || fail "there is no python$version: these wheels are for another JetPack"
export PATH="/usr/local/cuda/bin:$PATH" CUDA_ROOT="${CUDA_ROOT:-/usr/local/cuda}"
command -v nvcc >/dev/null || fail "nvcc, which compiles pycuda, is missing: apt-get install nvidia-jetpack"
(cd "$here" && sha256sum --check --quiet sha256.txt) || fail "the folder is damaged: copy it again"

[ -x "$venv/bin/python" ] || "python$version" -m venv --system-site-packages "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check --no-index --find-links "$here" 'edge-ad[jetson,line,plc]' onnxruntime
"$venv/bin/edge-ad" --version
echo "installed in $venv; next: $venv/bin/edge-ad doctor"
