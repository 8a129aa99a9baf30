#!/usr/bin/env bash
# A folder of wheels with which a Jetson installs edge-ad without internet, and a script that does it there.
#   tools/wheelhouse.sh [--python 3.10|3.12] [--out DIR]
# --python 3.10 (default) is for JetPack 6, 3.12 for JetPack 7. DIR is wheelhouse-<python> by default. Needs the internet here,
# not there. pycuda has no wheels: its source is in the folder and is compiled on the Jetson.
set -euo pipefail

version=3.10 out=""
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        --python | --out)
            [ $# -ge 2 ] || { echo "error: $1 needs a value; --help tells which" >&2; exit 2; }
            if [ "$1" = --out ]; then out="$2"; else version="$2"; fi
            shift
            ;;
        *) echo "error: unknown argument $1: allowed are --python and --out" >&2; exit 2 ;;
    esac
    shift
done
case "$version" in 3.10 | 3.12) ;; *) echo "error: --python is $version: allowed are 3.10 and 3.12" >&2; exit 2 ;; esac

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$(realpath -m "${out:-wheelhouse-$version}")"
base="${EDGE_AD_PYTHON:-python3}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out"

echo "== wheels for aarch64, Python $version"
"$base" "$root/tools/check_aarch64.py" --python "$version" --keep "$scratch" >"$out/packages.txt" ||
    { grep missing "$out/packages.txt" >&2 || true; echo "error: some packages have no wheel for a Jetson" >&2; exit 1; }
cp "$scratch/$version"/*.whl "$out"

echo "== edge-ad itself, and the source of pycuda with what compiles it"
pip() { "$base" -m pip --disable-pip-version-check "$@"; }
pip wheel --quiet --no-deps --wheel-dir "$out" "$root"
pip download --quiet --no-deps --no-binary pycuda --dest "$out" -c "$root/tools/constraints.txt" pycuda
pip download --quiet --no-deps --only-binary :all: --dest "$out" -c "$root/tools/constraints.txt" setuptools wheel packaging
cp "$root/tools/offline_install.sh" "$out/install.sh"
echo "$version" >"$out/python.txt"
(cd "$out" && sha256sum -- *.whl *.tar.gz >sha256.txt)

echo "== does the folder hold everything?"
interpreter="$(command -v "python$version" || true)"
if [ -z "$interpreter" ] || ! "$interpreter" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')"; then
    echo "not checked: there is no python$version here"
else
    # pip takes no source for another machine: an empty stand-in for pycuda, with its needs, lets it resolve the rest.
    "$base" "$root/tools/check_aarch64.py" --stand-ins "$scratch/stand-ins"
    "$interpreter" -m pip --disable-pip-version-check install --quiet --dry-run --ignore-installed --no-index \
        --find-links "$out" --find-links "$scratch/stand-ins" --target "$scratch/nowhere" --only-binary :all: \
        $("$base" "$root/tools/check_aarch64.py" --pip-flags "$version") 'edge-ad[jetson,line,plc]' onnxruntime
    echo "yes: pip resolves edge-ad[jetson,line,plc] from it alone"
fi
echo "$out: $(find "$out" -name '*.whl' | wc -l) wheels, $(du -sh "$out" | cut -f1). Copy it to the Jetson and run install.sh there."
