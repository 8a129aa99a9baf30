# Sourced by the scripts beside it. `prepare EXTRAS` makes .venv with edge-ad[EXTRAS] at the pinned versions, once:
# a stamp with the hash of everything that decides the content lets later runs skip the installation.
# PyPI's torch for x86-64 brings CUDA along (about 3 GB). A machine without an NVIDIA card is served sooner with
# an index of CPU builds: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu tools/test.sh

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
python="$root/.venv/bin/python"

find_python() {
    local candidate
    for candidate in ${EDGE_AD_PYTHON:-} python3.11 python3.12 python3.13 python3.10 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10 to 3.13 found: install one (apt-get install python3) or name it in EDGE_AD_PYTHON" >&2
    exit 2
}

make_venv() {
    local base
    base="$(find_python)"
    if "$base" -m venv --clear .venv 2>/dev/null; then
        return
    fi
    echo "== installing python3-venv"
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq python3-venv >/dev/null
    "$base" -m venv --clear .venv
}

install_pinned() {
    "$python" -m pip install --disable-pip-version-check -qq -c tools/constraints.txt "$@"
}

prepare() {
    local extras="$1" stamp hash
    "$python" -m pip --version >/dev/null 2>&1 || { echo "== making .venv"; make_venv; }
    stamp=".venv/edge-ad-${extras//,/-}.stamp"
    hash="$({ cat pyproject.toml tools/constraints.txt; "$python" -VV; echo "$root"; } | sha256sum)"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$hash" ]; then
        return
    fi
    echo "== installing edge-ad[$extras] into .venv (once; minutes on a new machine)"
    # torch by itself first: what is installed later takes it as it is and cannot choose another build.
    case ",$extras," in *,train,*) install_pinned torch==2.13.0 ;; esac
    install_pinned -e ".[$extras]"
    echo "$hash" >"$stamp"
}

# System packages that some tests need. Without them, and without apt-get or the right to use it, those tests are
# skipped and say so.
camera_packages="python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-base-1.0 gir1.2-aravis-0.8 gstreamer1.0-rtsp
gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
service_packages="mosquitto openssl"
browser_packages="chromium fonts-dejavu-core"
tracing_packages="strace"

install_system() {
    local what="$1" sudo=""
    shift
    dpkg -s "$@" >/dev/null 2>&1 && return
    command -v apt-get >/dev/null || { echo "== no apt-get: tests with $what will be skipped"; return; }
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    echo "== installing what tests with $what need (once)"
    { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "$@" >/dev/null; } || echo "== that failed: tests with $what will be skipped"
}

prepare_cameras() { install_system "network cameras" $camera_packages; }

prepare_services() { install_system "an MQTT broker" $service_packages; }

prepare_browser() { install_system "a browser" $browser_packages; }

prepare_tracing() { install_system "power cuts" $tracing_packages; }

# The real pycuda on a driver without a GPU, for the tests of the TensorRT backend: compiled once per Python (a minute of
# one core) and kept in ~/.cache/edge-ad-tests.
prepare_pycuda() {
    local headers='import pathlib, sysconfig; raise SystemExit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'
    command -v g++ >/dev/null || install_system "the real pycuda" g++
    "$python" -c "$headers" || install_system "the real pycuda" python3-dev
    "$python" tests/fake_cuda/build.py
}
