#!/usr/bin/env bash
# From a flashed Jetson to a verdict: packages, environment, pycuda, power mode, engine, service. Run it in the folder of
# the station (that of edge-ad.toml), again at any time: what is done already is left alone. docs/jetson.md tells the rest.
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
[ "$(id -u)" = 0 ] || sudo=(sudo)

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
    run "${sudo[@]}" apt-get update
    run "${sudo[@]}" apt-get install -y "${lacking[@]}"
fi

step "environment .venv with $python and the packages of the system"
if grep -qs "^include-system-site-packages = true" .venv/pyvenv.cfg && [ -e ".venv/bin/$python" ]; then
    echo "there already"
else
    run "/usr/bin/$python" -m venv --clear --system-site-packages .venv
fi

step "edge-ad and pycuda (compiled here; minutes)"
# A TensorRT or an OpenCV of PyPI would hide JetPack's own.
run .venv/bin/python -m pip uninstall -q -y tensorrt tensorrt-cu12 tensorrt-cu13 opencv-python opencv-python-headless
constraints="$(mktemp)"
trap 'rm -f "$constraints"' EXIT
# The OpenCV of Ubuntu 22.04 and 24.04 is built against NumPy 1, and the pins of NumPy and ml_dtypes are for 2.
{ grep -vE '^(numpy|ml_dtypes)==' "$source_root/tools/constraints.txt" && echo "numpy==1.26.4"; } >"$constraints"
run env "PATH=/usr/local/cuda/bin:$PATH" CUDA_ROOT=/usr/local/cuda .venv/bin/python -m pip install -q \
    -c "$constraints" "${source_root}[jetson,line]" onnxruntime

step "groups of $user: cameras, GPU, GPIO"
groups=()
for group in video render gpio; do
    getent group "$group" >/dev/null && ! id -nG "$user" 2>/dev/null | tr ' ' '\n' | grep -qx "$group" && groups+=("$group")
done
if [ ${#groups[@]} -eq 0 ]; then
    echo "member already"
else
    run "${sudo[@]}" usermod -aG "$(IFS=,; echo "${groups[*]}")" "$user"
fi

step "power mode and clocks"
modes="$(sed -nE 's/^< *POWER_MODEL +ID=([0-9]+) +NAME=([^ >]+) *>.*/\1 \2/p' "$root/etc/nvpmodel.conf" 2>/dev/null || true)"
current="$(sed -nE 's/^pmode:0*([0-9]+).*/\1/p' "$root/var/lib/nvpmodel/status" 2>/dev/null || true)"
if [ "$power" = max ]; then
    # By name, for the numbers say nothing: MAXN_SUPER, else MAXN, else the most watts.
    power="$(awk '{ watts = $2; sub(/W.*/, "", watts); speed = $2 ~ /MAXN_SUPER/ ? 2e6 : $2 ~ /MAXN/ ? 1e6 : watts + 0
                    if (NR == 1 || speed > best) { best = speed; id = $1 } } END { print id }' <<<"$modes")"
elif [ "$power" != keep ] && ! grep -q "^$power " <<<"$modes"; then
    fail "power mode $power is not one of: $(echo "$modes" | tr '\n' ';')"
fi
if [ "$power" = keep ] || [ -z "$power" ] || [ "$power" = "$current" ]; then
    echo "mode ${current:-unknown} stays"
else
    run "${sudo[@]}" nvpmodel -m "$power" # it may ask for a restart; then run this again
fi
clocks=/etc/systemd/system/edge-ad-clocks.service
if [ -f "$root$clocks" ]; then
    echo "clocks are held already"
else
    unit="$(mktemp)"
    printf '%s\n' "[Unit]" "Description=Hold the clocks of this Jetson at the top of its power mode" "After=nvpmodel.service" \
        "" "[Service]" "Type=oneshot" "ExecStart=/usr/bin/jetson_clocks" "RemainAfterExit=yes" \
        "" "[Install]" "WantedBy=multi-user.target" >"$unit"
    run "${sudo[@]}" install -m 644 "$unit" "$clocks"
    rm -f "$unit"
    run "${sudo[@]}" systemctl enable --now edge-ad-clocks.service
fi

step "what edge-ad doctor says"
run .venv/bin/edge-ad doctor

if [ -z "$bundle" ]; then
    echo "now copy a bundle here and run this again with --bundle FILE"
    exit 0
fi
step "engine of $bundle, and its first verdicts"
run .venv/bin/edge-ad build-engine "$bundle" --fp16
run .venv/bin/edge-ad run "$bundle" --camera "$camera" --max-frames 20
if [ -n "$service" ]; then
    step "service"
    run "${sudo[@]}" "$PWD/.venv/bin/edge-ad" service install --bundle "$bundle" --user "$user" --folder "$PWD"
    run "${sudo[@]}" systemctl enable --now edge-ad.service
fi
