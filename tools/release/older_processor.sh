#!/usr/bin/env bash
# Runs a command, and all that it starts, as on an x86-64 processor with AVX2 and nothing newer. For tests only.
# Usage: tools/release/older_processor.sh COMMAND...     for example tools/release/older_processor.sh tools/test.sh
set -euo pipefail
case "${1:-}" in -h | --help | "") sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
fail() { echo "error: $1" >&2; exit 2; }

[ "$(uname -sm)" = "Linux x86_64" ] || fail "this needs Linux on x86-64, not $(uname -sm)"
for need in gcc objdump; do command -v "$need" >/dev/null || fail "$need is missing: apt-get install gcc binutils"; done
[ -x "$root/.venv/bin/python" ] || fail "there is no $root/.venv yet: run tools/test.sh --collect-only first"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/edge-ad/older-processor"
mkdir -p "$cache"
library="$cache/$(sha256sum "$here/older_processor.c" | cut -c1-16).so"
[ -e "$library" ] || { gcc -O1 -Wall -shared -fPIC -o "$library.$$" "$here/older_processor.c" -ldl && mv "$library.$$" "$library"; }

# Libraries that ask the processor itself and have no switch. The table of one holds as long as the file is the same.
table="$cache/table.$$"
trap 'rm -f "$table"' EXIT
for file in "$root"/.venv/lib/python3*/site-packages/onnxruntime/capi/*.so*; do
    file="$(readlink -f "$file")"
    known="$cache/$(stat -c '%s %Y' "$file" | cat - <(echo "$file") | sha256sum | cut -c1-16).addresses"
    [ -s "$known" ] || objdump -d --no-show-raw-insn "$file" | awk '$2 == "cpuid" { sub(":", "", $1); print $1 }' >"$known"
    echo "$file $(tr '\n' ' ' <"$known")" >>"$table"
done

newer='avx512[a-z0-9_]*|avx_vnni[a-z0-9_]*|avx_ifma|avx_ne_convert|avx10|amx_[a-z0-9_]*|gfni|vaes|vpclmulqdq'
sed -E "/^flags/ s/ ($newer)\b//g" /proc/cpuinfo >"$cache/cpuinfo.$$" && mv "$cache/cpuinfo.$$" "$cache/cpuinfo"

export EDGE_AD_OLDER_TABLE="$table" EDGE_AD_OLDER_CPUINFO="$cache/cpuinfo"
# The libraries that do have a switch: oneDNN, ATen and MKL in torch, OpenBLAS, NumPy, OpenCV, glibc.
export ONEDNN_MAX_CPU_ISA=AVX2 DNNL_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2
export OPENBLAS_CORETYPE=Haswell
export GLIBC_TUNABLES="glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ"
NPY_DISABLE_CPU_FEATURES="$("$root/.venv/bin/python" -c '
try:
    from numpy._core._multiarray_umath import __cpu_dispatch__ as names
except ImportError:  # NumPy 1
    from numpy.core._multiarray_umath import __cpu_dispatch__ as names
print(*(name for name in names if name.startswith(("AVX512", "X86_V4"))))')"
export NPY_DISABLE_CPU_FEATURES
export OPENCV_CPU_DISABLE="AVX512-SKX,AVX512-ICL,AVX512-CLX,AVX512-CNL"
LD_AUDIT="$library" LD_PRELOAD="$library" "$@"
