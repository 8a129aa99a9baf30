#!/usr/bin/env bash
# From a flashed Jetson to a verdict: packages, environment, pycuda, clocks, power mode, engine, service. Run it in the folder
# of the station (that of edge-ad.toml), again at any time: what is done already is left alone. docs/jetson.md tells the rest.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: tools/jetson_setup.sh [--bundle FILE] [--camera URI] [--user NAME] [--power ID|max|keep] [--no-service] [--dry-run]

  --bundle FILE   build the FP16 engine of this bundle, judge 20 frames, and install the service
  --camera URI    the camera of these frames (default: 0); the service takes that of edge-ad.toml
  --user NAME     the user that the service runs as (default: who runs this)
  --power ID      power mode: its number, max (default) for the fastest that the board offers, or keep
  --no-service    install no service
  --dry-run       print what would be done, and do nothing
EOF
}

fail() {
    echo "error: $*" >&2
    exit 2
}

step() { echo "== $*"; }

# What the owner has to do or to know is said where it comes up, and again at the end. It stops nothing.
notes=()
note() {
    notes+=("$*")
    echo "note: $*"
}

constraints=""
finish() {
    [ -z "$constraints" ] || rm -f "$constraints"
    [ ${#notes[@]} -eq 0 ] || { echo "== what is left to do" && printf -- '- %s\n' "${notes[@]}"; }
}
trap finish EXIT

# Run a command, or print it with --dry-run.
run() {
    if [ -n "$dry" ]; then
        printf 'would run:'
        printf ' %q' "$@"
        echo
    else
        "$@"
    fi
}

source_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
root="${EDGE_AD_ROOT:-}" # where release files are read; the tests lay out boards elsewhere
bundle="" camera=0 user="${SUDO_USER:-$(id -un)}" power=max service=yes dry=""
while [ $# -gt 0 ]; do
    case "$1" in
        --bundle | --camera | --user | --power)
            [ $# -ge 2 ] || fail "$1 needs a value; --help tells which"
            case "$1" in
                --bundle) bundle="$2" ;;
                --camera) camera="$2" ;;
                --user) user="$2" ;;
                --power) power="$2" ;;
            esac
            shift
            ;;
        --no-service) service="" ;;
        --dry-run) dry=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "unknown option '$1'; --help tells what is allowed" ;;
    esac
    shift
done
[[ "$power" =~ ^([0-9]+|max|keep)$ ]] || fail "--power '$power' is no number of a mode, nor max or keep"
[ -z "$bundle" ] || [ -f "$bundle" ] || fail "there is no bundle '$bundle': copy it here from the workstation that trained it"
sudo=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "this user is not root, and there is no sudo: run this as root"
    sudo=(sudo)
fi

release="$root/etc/nv_tegra_release"
[ -f "$release" ] || fail "this is no Jetson (no $release): on a workstation use pip install 'edge-ad[gpu]' or 'edge-ad[cpu]'"
l4t="$(sed -nE 's/^# R([0-9]+) \(release\), REVISION: ([0-9]+)\.([0-9]+).*/\1 \2 \3/p' "$release" | head -1)"
[ -n "$l4t" ] || fail "$release does not tell its release; is it the file of Jetson Linux?"
read -r major minor patch <<<"$l4t"
case "$major" in
    36)
        python=python3.10
        [ "$minor" -ge 4 ] || fail "L4T $major.$minor.$patch is JetPack 6.0 with TensorRT 8.6: upgrade to JetPack 6.1 or newer"
        ;;
    38 | 39) python=python3.12 ;;
    *) fail "L4T $major.$minor.$patch is not supported: flash JetPack 6.1 or newer, or JetPack 7" ;;
esac

# Modes are known before anything is changed: a number that the board does not have is refused here.
modes="$(sed -nE 's/^< *POWER_MODEL +ID=([0-9]+) +NAME=([^ >]+) *>.*/\1 \2/p' "$root/etc/nvpmodel.conf" 2>/dev/null || true)"
current="$(sed -nE 's/^pmode:0*([0-9]+).*/\1/p' "$root/var/lib/nvpmodel/status" 2>/dev/null || true)"
if [ "$power" = max ]; then
    # By name, for the numbers say nothing: MAXN_SUPER, else MAXN, else the most watts.
    power="$(awk '{ watts = $2; sub(/W.*/, "", watts); speed = $2 ~ /MAXN_SUPER/ ? 2e6 : $2 ~ /MAXN/ ? 1e6 : watts + 0
                    if (NR == 1 || speed > best) { best = speed; id = $1 } } END { print id }' <<<"$modes")"
elif [ "$power" != keep ] && ! grep -q "^$power " <<<"$modes"; then
    fail "power mode $power is not one of: $(echo "$modes" | tr '\n' ';')"
fi
echo "L4T $major.$minor.$patch, $python$([ -z "$dry" ] || echo ' (dry run: nothing is changed)')"

step "packages of JetPack and Ubuntu"
installed() { grep -A1 "^Package: $1\$" "$root/var/lib/dpkg/status" 2>/dev/null | grep -q "^Status: install ok installed"; }
wanted=(python3-venv python3-dev build-essential gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad)
if ! { installed libnvinfer10 && installed python3-libnvinfer && [ -x "$root/usr/local/cuda/bin/nvcc" ]; }; then
    wanted=(nvidia-jetpack "${wanted[@]}") # TensorRT with its bindings, CUDA with nvcc
fi
compgen -G "$root/usr/lib/python3*/dist-packages/cv2*" >/dev/null || wanted+=(python3-opencv)
lacking=()
for package in "${wanted[@]}"; do
    installed "$package" || lacking+=("$package")
done
if [ ${#lacking[@]} -eq 0 ]; then
    echo "all there"
else
    # Without these two, needrestart and debconf open dialogues in the middle of it.
    quiet=(env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a)
    run "${sudo[@]}" apt-get update || note "apt-get update failed: is this board on the internet?"
    run "${sudo[@]}" "${quiet[@]}" apt-get install -y "${lacking[@]}" ||
        fail "apt-get did not install ${lacking[*]}: the reason stands above; then run this again"
fi

step "environment .venv with $python and the packages of the system"
if grep -qs "^include-system-site-packages = true" .venv/pyvenv.cfg && [ -e ".venv/bin/$python" ]; then
    echo "there already"
else
    run "/usr/bin/$python" -m venv --clear --system-site-packages .venv ||
        fail "$python made no environment here: is $PWD writable, and has it a gigabyte free?"
fi

step "edge-ad and pycuda (pycuda is compiled here: 5 to 20 minutes, in which pip says 'still running')"
# A TensorRT or an OpenCV of PyPI would hide JetPack's own.
run .venv/bin/python -m pip uninstall -y tensorrt tensorrt-cu12 tensorrt-cu13 opencv-python opencv-python-headless ||
    note "pip uninstall failed: see 'edge-ad doctor' for a TensorRT or an OpenCV that hides JetPack's"
constraints="$(mktemp)"
# The OpenCV of Ubuntu 22.04 and 24.04 is built against NumPy 1, and the pins of NumPy and ml_dtypes are for 2.
{ grep -vE '^(numpy|ml_dtypes)==' "$source_root/tools/constraints.txt" && echo "numpy==1.26.4"; } >"$constraints"
run env "PATH=/usr/local/cuda/bin:$PATH" CUDA_ROOT=/usr/local/cuda PYTHONUNBUFFERED=1 .venv/bin/python -m pip install \
    --disable-pip-version-check -c "$constraints" "${source_root}[jetson,line,plc]" onnxruntime ||
    fail "pip did not install edge-ad: the reason stands above (without internet: tools/wheelhouse.sh); then run this again"

step "groups of $user: cameras, GPU, GPIO"
groups=()
for group in video render gpio; do
    getent group "$group" >/dev/null && ! id -nG "$user" 2>/dev/null | tr ' ' '\n' | grep -qx "$group" && groups+=("$group")
done
if [ ${#groups[@]} -eq 0 ]; then
    echo "member already"
else
    run "${sudo[@]}" usermod -aG "$(IFS=,; echo "${groups[*]}")" "$user" ||
        note "$user is not in the groups ${groups[*]}: sudo usermod -aG $(IFS=,; echo "${groups[*]}") $user"
fi
# Groups come with a login: this shell lacks new ones. sudo to the same user reads them anew.
as_user=()
if [ "$(id -u)" != 0 ]; then
    lacks=""
    for group in ${groups[@]+"${groups[@]}"} $(id -nG "$(id -un)"); do
        id -nG | tr ' ' '\n' | grep -qx "$group" || lacks=yes
    done
    if [ -n "$lacks" ]; then
        as_user=(sudo -u "$(id -un)")
        note "log out and in again before you use edge-ad by hand: this shell is not yet in the new groups"
    fi
fi

step "clocks"
clocks=/etc/systemd/system/edge-ad-clocks.service
if [ -f "$root$clocks" ]; then
    echo "clocks are held already"
else
    unit="$(mktemp)"
    printf '%s\n' "[Unit]" "Description=Hold the clocks of this Jetson at the top of its power mode" "After=nvpmodel.service" \
        "" "[Service]" "Type=oneshot" "ExecStart=/usr/bin/jetson_clocks" "RemainAfterExit=yes" \
        "" "[Install]" "WantedBy=multi-user.target" >"$unit"
    if ! { run "${sudo[@]}" install -m 644 "$unit" "$clocks" &&
        run "${sudo[@]}" systemctl enable --now edge-ad-clocks.service; }; then
        note "the clocks are not held: sudo jetson_clocks says why; verdicts after a pause come later until then"
    fi
    rm -f "$unit"
fi

step "what edge-ad doctor says"
run ${as_user[@]+"${as_user[@]}"} .venv/bin/edge-ad doctor ||
    note "edge-ad doctor is not content: do what it says above, and ask it again: .venv/bin/edge-ad doctor"

# The last change to the board, since it may want a restart. It must not ask in the middle, so its question gets no answer.
step "power mode"
restart=""
if [ "$power" = keep ] || [ -z "$power" ] || [ "$power" = "$current" ]; then
    echo "mode ${current:-unknown} stays"
elif [ -n "$dry" ]; then
    run "${sudo[@]}" nvpmodel -m "$power"
else
    said="$("${sudo[@]}" nvpmodel -m "$power" </dev/null 2>&1)" && failed="" || failed=yes
    [ -z "$said" ] || echo "$said"
    if grep -qi reboot <<<"$said"; then
        restart=yes
        note "power mode $power wants a restart: sudo nvpmodel -m $power, answer yes, and run this again: engines belong to a mode"
    elif [ -n "$failed" ]; then
        note "nvpmodel did not take mode $power: sudo nvpmodel -q tells the mode there is; it stays"
    else
        echo "mode $power"
    fi
fi

if [ -z "$bundle" ]; then
    note "copy a bundle here and run this again with --bundle FILE"
    exit 0
fi
[ -z "$restart" ] || echo "the engine is built in mode ${current:-unknown}, and once more when you run this after the restart"
step "engine of $bundle, and its first verdicts"
# TensorRT leaves out what does not fit into memory that is free, and files that were read count as used.
run "${sudo[@]}" sh -c 'sync && echo 1 >/proc/sys/vm/drop_caches' || note "the page cache was not dropped before the build"
run ${as_user[@]+"${as_user[@]}"} .venv/bin/edge-ad build-engine "$bundle" --fp16 ||
    fail "there is no engine, and so no service: the reason stands above; then run this again"
if ! run ${as_user[@]+"${as_user[@]}"} .venv/bin/edge-ad run "$bundle" --camera "$camera" --max-frames 20; then
    note "no verdicts from camera '$camera', so no service was installed: .venv/bin/edge-ad doctor --cameras looks at cameras"
    exit 3
fi
if [ -n "$service" ]; then
    step "service"
    run "${sudo[@]}" "$PWD/.venv/bin/edge-ad" service install --bundle "$bundle" --user "$user" --folder "$PWD" ||
        fail "the service was not installed: the reason stands above; then run this again"
    run "${sudo[@]}" systemctl enable --now edge-ad.service || note "the service does not start: journalctl -u edge-ad tells why"
fi
