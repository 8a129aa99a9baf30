# Sourced by the scripts beside it. `prepare EXTRAS` makes .venv with edge-ad[EXTRAS] at the pinned versions, once:
# a stamp with the hash of everything that decides the content lets later runs skip the installation.
# PyPI's torch for x86-64 brings CUDA along (about 3 GB). A machine without an NVIDIA card is served sooner with
# an index of CPU builds: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu tools/test.sh

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
python="$root/.venv/bin/python"

# Interpreters of one version, on PATH and where pyenv and uv keep theirs.
interpreters() {
    command -v "python$1" || true
    compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1.*/bin/python3" || true
    compgen -G "${XDG_DATA_HOME:-$HOME/.local/share}/uv/python/cpython-$1.*/bin/python3" || true
}

find_python() {
    local candidate version candidates=(${EDGE_AD_PYTHON:-} python3.11 python3.12 python3.13 python3.10 python3)
    for version in 3.11 3.12 3.13 3.10; do
        candidates+=($(interpreters "$version"))
    done
    for candidate in "${candidates[@]}"; do
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

# Bytecode of what is never imported is most of it: half a minute of one core for torch and what it brings. Python writes the
# rest, also where images of containers say that it should not: each of the hundreds of programs that the tests start would
# compile all that it imports.
unset PYTHONDONTWRITEBYTECODE

# install_pinned PYTHON CONSTRAINTS ARGUMENTS of `pip install`: with uv, which takes a fifth of pip's processor time and keeps
# what environments share once. Where uv cannot be had or fails, pip does it and says what is wrong.
install_pinned() {
    local into="$1" constraints="$2"
    shift 2
    if have_uv && .venv/bin/uv pip install -qq --python "$into" -c "$constraints" "$@" 2>/dev/null; then return; fi
    "$into" -m pip --version >/dev/null 2>&1 || "$into" -m ensurepip >/dev/null
    "$into" -m pip install --disable-pip-version-check --no-compile -qq -c "$constraints" "$@"
}

have_uv() {
    [ -x .venv/bin/uv ] || "$python" -m pip install --disable-pip-version-check -qq -c tools/constraints.txt uv 2>/dev/null || return
    [ -n "${UV_INDEX_STRATEGY:-}" ] || use_settings_of_pip
}

# uv reads neither the files nor the variables of pip's configuration, which name a company's index or a machine's own wheels.
use_settings_of_pip() {
    local settings name value
    settings="$("$python" -m pip config list)"
    for name in index-url extra-index-url find-links constraint cert trusted-host; do
        value="$(sed -nE "s/^(:env:|install|global)\\.$name='(.*)'\$/\\2/p" <<<"$settings" | head -n 1)"  # :env: comes first
        value="${value//\\n/ }"
        [ -n "$value" ] || continue
        case "$name" in
            index-url) export UV_DEFAULT_INDEX="$value" ;;
            extra-index-url) export UV_INDEX="$value" ;;
            find-links) export UV_FIND_LINKS="${value// /,}" ;;
            constraint) export UV_CONSTRAINT="$value" ;;
            cert) export SSL_CERT_FILE="$value" ;;
            trusted-host) export UV_INSECURE_HOST="$value" ;;
        esac
    done
    export UV_INDEX_STRATEGY=unsafe-best-match UV_PYTHON_DOWNLOADS=never  # the best version of all indexes, as pip takes it
}

have_venv() {
    "$python" -m pip --version >/dev/null 2>&1 || { echo "== making .venv"; make_venv; }
}

prepare() {
    local extras="$1" stamp hash
    have_venv
    stamp=".venv/edge-ad-${extras//,/-}.stamp"
    hash="$({ cat pyproject.toml tools/constraints.txt; "$python" -VV; echo "$root"; } | sha256sum)"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$hash" ]; then
        return
    fi
    echo "== installing edge-ad[$extras] into .venv (once; minutes on a new machine)"
    # torch by itself first: what is installed later takes it as it is and cannot choose another build.
    case ",$extras," in *,train,*) install_pinned "$python" tools/constraints.txt torch==2.13.0 ;; esac
    install_pinned "$python" tools/constraints.txt -e ".[$extras]"
    echo "$hash" >"$stamp"
}

# Sets of versions beside the newest: what a board brings, and the lower bounds of the extras. A set has a file
# tools/constraints-NAME.txt, whose lines take the place of those of constraints.txt, and an environment .venv-NAME with
# what a board installs and pytest; no torch.
version_sets="jetpack6 jetpack7 lowest"

set_version() {
    case "$1" in
        jetpack6 | lowest) echo 3.10 ;;
        jetpack7) echo 3.12 ;;
        *) echo "error: there is no set of versions '$1': EDGE_AD_SETS takes all, none or some of $version_sets" >&2; exit 2 ;;
    esac
}

# The interpreter of a set: the one that EDGE_AD_PYTHON_NAME names, or one that is found; nothing where there is none.
set_python() {
    local version named candidate candidates
    version="$(set_version "$1")" || exit
    named="EDGE_AD_PYTHON_${1^^}"
    mapfile -t candidates < <(interpreters "$version")
    for candidate in ${!named:-"${candidates[@]}"}; do
        if "$candidate" -c "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (${version/./, }))" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    [ -z "${!named:-}" ] || { echo "error: $named=${!named} is no Python $version with venv" >&2; exit 2; }
}

# What a set runs, as arguments of pytest: the rule stands in CONTRIBUTING.md. `lowest` has the oldest of every library, and
# runs all but pages, scripts and the structure of the repository, which are the same in every environment. A board has a
# Python and an OpenCV between that and the newest versions, and the NumPy of `lowest`: it runs what is built on OpenCV there,
# not what trains or draws, and a few files that open, build and run all the rest.
of_the_repository="tests/docs tests/tools tests/test_architecture.py"
on_opencv="tests/camera tests/geometry tests/data/test_images.py tests/data/test_tolerance.py tests/inspection/test_annotate.py
tests/inspection/test_evidence.py tests/inspection/test_locating.py tests/inspection/test_parts.py tests/inspection/test_view.py
tests/inspection/test_zones.py tests/store/test_jpeg.py tests/system/test_here.py tests/system/test_tries.py tests/web/test_preview.py"
of_all_the_rest="tests/bundle/test_bundle.py tests/deployment/test_colour_match.py tests/deployment/test_commands.py
tests/engines/test_pipeline.py tests/inspection/test_inspector.py tests/test_events.py tests/test_old_version.py"

set_tests() {
    case "$1" in
        lowest) printf -- "--ignore=%s " $of_the_repository ;;
        *) echo $on_opencv $of_all_the_rest ;;
    esac
}

set_constraints() {
    awk -F'[=;]' '{ name = tolower($1); gsub(/_/, "-", name) }
        NR == FNR { replaced[name]; print; next } !(name in replaced)' "tools/constraints-$1.txt" tools/constraints.txt
}

# prepare_set NAME PYTHON makes .venv-NAME once, as `prepare` makes .venv.
prepare_set() {
    local venv=".venv-$1" hash
    hash="$({ cat pyproject.toml; set_constraints "$1"; "$2" -VV; echo "$2 $root"; } | sha256sum)"
    if [ "$(cat "$venv/edge-ad.stamp" 2>/dev/null)" = "$hash" ]; then
        return
    fi
    echo "== making $venv (once; a minute on a new machine)"
    "$2" -m venv --clear --without-pip "$venv"
    set_constraints "$1" >"$venv/constraints.txt"
    install_pinned "$venv/bin/python" "$venv/constraints.txt" -e ".[cpu,line]" pytest hypothesis pymodbus
    echo "$hash" >"$venv/edge-ad.stamp"
}

# System packages that some tests need. Without them, and without apt-get or the right to use it, those tests are
# skipped and say so.
camera_packages="python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-base-1.0 gir1.2-aravis-0.8 gstreamer1.0-rtsp
gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
service_packages="mosquitto openssl"
browser_packages="chromium fonts-dejavu-core"
tracing_packages="strace"
host_packages="cmake g++ libstb-dev mono-mcs mono-runtime"

apt_lists=""  # set once they are new

install_system() {
    local what="$1" sudo=""
    shift
    dpkg -s "$@" >/dev/null 2>&1 && return
    command -v apt-get >/dev/null || { echo "== no apt-get: tests with $what will be skipped"; return; }
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    echo "== installing what tests with $what need (once)"
    { { [ -n "$apt_lists" ] || $sudo apt-get update -qq; } && apt_lists=new &&
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; } ||
        echo "== that failed: tests with $what will be skipped"
}

prepare_cameras() { install_system "network cameras" $camera_packages; }

prepare_services() { install_system "an MQTT broker" $service_packages; }

prepare_browser() { install_system "a browser" $browser_packages; }

prepare_tracing() { install_system "power cuts" $tracing_packages; }

# Everything above, and compilers for the samples of docs/host: beside the installation from PyPI, but not beside another apt-get.
prepare_system() {
    prepare_cameras
    prepare_services
    prepare_browser
    prepare_tracing
    install_system "programs in C++ and C#" $host_packages
}

# Compilers for the samples of docs/host, and ONNX Runtime for C, C++ and C# from npm, kept in ~/.cache/edge-ad-tests.
prepare_host_programs() {
    install_system "programs in C++ and C#" $host_packages
    "$python" tests/fixtures/host_toolchain.py || true
}

# An object store that speaks S3, for the tests of the fleet: kept in ~/.cache/edge-ad-tests.
prepare_object_store() {
    PYTHONPATH="$root" "$python" -m tests.fixtures.s3_server || true
}

# The real pycuda on a driver without a GPU, for the tests of the TensorRT backend: compiled once per Python (a minute of
# one core) and kept in ~/.cache/edge-ad-tests.
prepare_pycuda() {
    local headers='import pathlib, sysconfig; raise SystemExit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'
    command -v g++ >/dev/null || install_system "the real pycuda" g++
    "$python" -c "$headers" || install_system "the real pycuda" python3-dev
    "$python" tests/fake_cuda/build.py || echo "== that failed: tests with the real pycuda will be skipped"
}
