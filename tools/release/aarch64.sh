#!/usr/bin/env bash
# edge-ad on emulated 64-bit ARM: the wheel is installed in an arm64 Debian, builds engines in three precisions, judges
# frames and drives a Modbus peer; the same is done here, and verdicts and scores are compared.
#   tools/release/aarch64.sh [--work DIR] [--bundle FILE --camera URI] [--frames N] [--precisions 'fp32 fp16 int8']
#                            [--constraints FILE] [--tests 'PYTEST ARGUMENTS']
# --work DIR keeps the root, the wheels and the results (default: ~/.cache/edge-ad/aarch64); what is there is used again.
# --bundle FILE is judged on --camera URI; without it a miniature bundle is made, and frames for it. --frames N: how many (20).
# --precisions: which engines are built (all three; int8 takes a calibrated bundle).
# --constraints FILE pins the versions (default: tools/constraints.txt). --tests runs pytest in there in place of the reading.
# Needs Linux 6.7 or newer, root, and the packages qemu-user-static and mmdebstrap, which it installs where apt-get can.
# Ends with 0 when all is equal, 1 when something differs or fails, 2 when it cannot start.
set -euo pipefail

fail() {
    echo "error: $*" >&2
    exit 2
}

# Everything below --inside runs in namespaces of its own, so that neither the handler for arm64 programs nor a mount is
# seen outside. The user namespace is needed for the handler: since Linux 6.7 each one has its own binfmt_misc.
if [ "${1:-}" = --inside ]; then
    shift
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || fail "no private binfmt_misc: this needs Linux 6.7 or newer"
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    # F: the emulator is opened now, so that it need not lie in the root.
    echo ":aarch64:M::$magic:$mask:/usr/bin/qemu-aarch64-static:F" >/proc/sys/fs/binfmt_misc/register
    exec "$@"
fi

work="${XDG_CACHE_HOME:-$HOME/.cache}/edge-ad/aarch64" bundle="" camera="" frames=20 constraints="" tests=""
precisions="fp32 fp16 int8"
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        --work | --bundle | --camera | --frames | --precisions | --constraints | --tests)
            [ $# -ge 2 ] || fail "$1 needs a value; --help tells which"
            case "$1" in
                --work) work="$2" ;;
                --bundle) bundle="$(realpath -m "$2")" ;;
                --camera) camera="$2" ;;
                --frames) frames="$2" ;;
                --precisions) precisions="$2" ;;
                --constraints) constraints="$(realpath -m "$2")" ;;
                --tests) tests="$2" ;;
            esac
            shift
            ;;
        *) fail "unknown argument $1; --help tells what is allowed" ;;
    esac
    shift
done
[[ "$frames" =~ ^[1-9][0-9]*$ ]] || fail "--frames is $frames, but must be 1 or more"
[ -z "$bundle" ] || [ -f "$bundle" ] || fail "there is no bundle $bundle"
[ -z "$bundle" ] || [ -n "$camera" ] || fail "--bundle needs --camera: a synthetic one is there on both sides"
[ "$(id -u)" = 0 ] || fail "this needs root: run it with sudo"
script="$(realpath "${BASH_SOURCE[0]}")"
source "$(dirname "$script")/../environment.sh"
constraints="${constraints:-$root/tools/constraints.txt}"
[ -f "$constraints" ] || fail "there is no file $constraints"
work="$(realpath -m "$work")"
mkdir -p "$work"

# Run a command in the namespaces, all users as they are. The parent writes the maps, which the child may not.
isolated() {
    local pipes pid child
    pipes="$(mktemp -d)"
    mkfifo "$pipes/ready" "$pipes/go"
    # shellcheck disable=SC2016 # the inner shell expands them
    nice unshare --user --mount bash -c 'echo $$ >"$0/ready"; read -r _ <"$0/go"; exec bash "$@"' \
        "$pipes" "$script" --inside "$@" &
    child=$!
    read -r pid <"$pipes/ready"
    echo "0 0 65536" >"/proc/$pid/uid_map"
    echo "0 0 65536" >"/proc/$pid/gid_map"
    echo >"$pipes/go"
    rm -r "$pipes"
    wait "$child"
}

# The nearest to the Cortex-A78AE of an Orin that the emulator has: FP16 and dot products, no SVE.
export QEMU_CPU="${QEMU_CPU:-cortex-a76}"
processor='model name\t: ARMv8 Processor rev 1 (v8l)\nBogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd0b\nCPU revision\t: 1'

# Run a command in the arm64 root, which sees the tests and tools of this checkout but not its package.
emulated() {
    # shellcheck disable=SC2016
    isolated bash -c '
        set -e
        root="$1" source="$2" work="$3" processor="$4"
        shift 4
        for name in proc dev; do mount --rbind "/$name" "$root/$name"; done
        # onnxruntime asks /sys and /proc/cpuinfo about the processor: it aborts without them, and on those of this machine.
        cpu="$root/sys/devices/system/cpu"
        mount -t tmpfs none "$root/sys"
        mkdir -p "$cpu"
        for name in possible present online; do echo "0-$(($(nproc) - 1))" >"$cpu/$name"; done
        for number in $(seq 0 $(($(nproc) - 1))); do printf "%b" "processor\\t: $number\\n$processor\\n\\n"; done >"$root/sys/cpuinfo"
        mount --bind "$root/sys/cpuinfo" "$root/proc/cpuinfo"
        mkdir -p "$root/trial" "$root/source"
        mount --bind "$work" "$root/trial"
        mount -t tmpfs none "$root/source"
        for name in tests tools docs; do
            mkdir "$root/source/$name"
            mount --bind "$source/$name" "$root/source/$name"
        done
        cp "$source/pyproject.toml" "$source"/*.md "$root/source"
        exec chroot "$root" env -i HOME=/root LANG=C.UTF-8 QEMU_CPU="$QEMU_CPU" PATH=/venv/bin:/usr/bin:/bin:/usr/sbin:/sbin \
            PYTHONPYCACHEPREFIX=/var/cache/python PYTHONPATH=/source "$@"
    ' _ "$work/root" "$root" "$work" "$processor" "$@"
}

command -v qemu-aarch64-static >/dev/null && command -v mmdebstrap >/dev/null ||
    install_system "emulated 64-bit ARM" qemu-user-static mmdebstrap arch-test
command -v qemu-aarch64-static >/dev/null && command -v mmdebstrap >/dev/null ||
    fail "qemu-user-static and mmdebstrap are missing: install them"

if [ ! -e "$work/root.done" ]; then
    echo "== arm64 root: Debian of this machine's own mirror (minutes)"
    mirror="$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Origin: Debian' 'Created-By: Packages' |
        awk '$3 == "main" && $2 !~ /-/ { print $1, $2; exit }')"
    [ -n "$mirror" ] || fail "apt knows no mirror of Debian: run this on a Debian, or in a container of one"
    rm -rf "$work/root"
    # shellcheck disable=SC2086
    isolated mmdebstrap --quiet --mode=root --architectures=arm64 --variant=minbase \
        --include=python3,python3-venv,ca-certificates "${mirror#* }" "$work/root" "${mirror% *}" 2>"$work/root.log" ||
        { tail -5 "$work/root.log" >&2; fail "the root could not be made; $work/root.log has it all"; }
    touch "$work/root.done"
fi
version="$(basename "$(readlink "$work/root/usr/bin/python3")")"
version="${version#python}"

prepare distill,test
wheels="$work/wheels-$(cat "$constraints" pyproject.toml | sha256sum | cut -c1-8)"
stamp="$wheels $(find edge_ad calibration -name '*.pyc' -prune -o -type f -print0 | sort -z | xargs -0 cat | sha256sum | cut -d' ' -f1)"
if [ "$(cat "$work/installed" 2>/dev/null)" != "$stamp" ]; then
    echo "== wheel of edge-ad, and those that it needs on aarch64 with Python $version"
    mkdir -p "$wheels"
    rm -f "$wheels"/edge_ad-*.whl
    "$python" -m pip wheel --disable-pip-version-check -q --no-deps -w "$wheels" "$root"
    platforms=(--platform manylinux2014_aarch64)
    for minor in $(seq 17 36); do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
    [ -e "$wheels/complete" ] || "$python" -m pip download --disable-pip-version-check -q --only-binary=:all: --python-version "$version" \
        --implementation cp --abi "cp${version/./}" --abi abi3 --abi none "${platforms[@]}" \
        -c "$constraints" -d "$wheels" "$(echo "$wheels"/edge_ad-*.whl)[cpu,line]" pytest hypothesis pymodbus
    touch "$wheels/complete"
    echo "== installing edge-ad[cpu,line] in the root"
    emulated bash -c '
        [ -x /venv/bin/python ] || python3 -m venv /venv
        pip() { /venv/bin/pip --disable-pip-version-check "$@" -q --no-index --no-compile --no-deps; }
        pip install "$1"/*.whl
        pip install --force-reinstall "$1"/edge_ad-*.whl
    ' _ "/trial/$(basename "$wheels")"
    echo "$stamp" >"$work/installed"
fi

if [ -n "$tests" ]; then
    echo "== pytest $tests"
    # shellcheck disable=SC2086
    emulated bash -c "cd /source && python -m pytest -p no:cacheprovider $tests"
    exit
fi

for side in x86 aarch64; do
    rm -rf "${work:?}/$side"
    mkdir -p "$work/$side"
    [ -z "$bundle" ] || cp "$bundle" "$work/$side/part.edgead"
done
if [ -z "$bundle" ]; then
    echo "== a miniature bundle"
    nice "$python" -m tools.release.aarch64_reading make "$work/x86" --frames "$frames"
    cp -r "$work/x86/." "$work/aarch64"
fi
reading=(--frames "$frames" --precisions $precisions ${camera:+--camera "$camera"})
echo "== reading on $(uname -m)"
nice "$python" -m tools.release.aarch64_reading read "$work/x86" "${reading[@]}"
echo "== reading on emulated aarch64"
emulated python -m tools.release.aarch64_reading read /trial/aarch64 "${reading[@]}"
echo "== compared"
exec "$python" -m tools.release.aarch64_reading compare "$work/x86" "$work/aarch64"
