#!/usr/bin/env bash
# Runs the service of a station under a real systemd: a small Debian boots in namespaces of its own, with device nodes where a
# Jetson has its GPU and a socket in the place of Argus. As root: tools/release/service_machine.sh [FOLDER]
# FOLDER (default: ~/.cache/edge-ad/service-machine) keeps the Debian for the next time. It needs mmdebstrap and the legacy
# hierarchy of control groups, and says ok or fail for each thing that it looks at. Nothing outside FOLDER is changed.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
fail() { echo "error: $1" >&2; exit 2; }
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source_root="$(cd "$here/../.." && pwd)"
python="$source_root/.venv/bin/python"
root="${1:-${XDG_CACHE_HOME:-$HOME/.cache}/edge-ad/service-machine}"
controllers=(systemd devices pids memory)

[ "$(id -u)" = 0 ] || fail "only root may start a machine in namespaces: run it with sudo"
command -v mmdebstrap >/dev/null || fail "mmdebstrap is missing: apt-get install mmdebstrap"
[ -x "$python" ] || fail "there is no $python yet: run tools/test.sh --collect-only first"
for one in "${controllers[@]}"; do
    [ -d "/sys/fs/cgroup/$one" ] || fail "there is no /sys/fs/cgroup/$one: this machine has no legacy hierarchy of control groups"
done

if [ ! -e "$root/complete" ]; then
    echo "== making a Debian 12 in $root (once; minutes)"
    rm -rf "$root"
    mkdir -p "$(dirname "$root")"
    mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,procps,python3-venv,libglib2.0-0,libgl1 bookworm "$root"
    chroot "$root" python3 -m venv /opt/edge-ad
    chroot "$root" useradd --create-home inspector
    touch "$root/complete"
fi
echo "== installing edge-ad in it"
rm -rf "$root/opt/wheels" && mkdir "$root/opt/wheels"
"$python" -m pip wheel -q --no-deps --wheel-dir "$root/opt/wheels" "$source_root"
"$python" -m pip download -q --only-binary :all: --python-version 3.11 --dest "$root/opt/wheels" \
    --find-links "$root/opt/wheels" -c "$source_root/tools/constraints.txt" 'edge-ad[cpu,line]'
chroot "$root" /opt/edge-ad/bin/pip install -q --no-index --find-links /opt/wheels --force-reinstall --no-deps edge-ad
chroot "$root" /opt/edge-ad/bin/pip install -q --no-index --find-links /opt/wheels 'edge-ad[cpu,line]'
rm -rf "$root/station" && mkdir "$root/station"
PYTHONPATH="$source_root" "$python" -c "
from pathlib import Path
from tests.fixtures.tiny_bundle import make_tiny_bundle
make_tiny_bundle(Path('$root/station/tiny.edgead'))"
printf '[engine]\nbackend = "onnxruntime"\nprecision = "fp32"\n[run]\ncamera = "csi://0"\nstore = "events.sqlite"\n' \
    >"$root/station/edge-ad.toml"
echo '# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic, EABI: aarch64' >"$root/etc/nv_tegra_release"
chroot "$root" chown -R inspector:inspector /station
rm -f "$root/etc/systemd/system/edge-ad.service"
cp "$here/service_machine.py" "$root/opt/service_machine.py"

echo "== starting it"
export root
# Control groups of its own, so that its systemd sees nothing of ours. The nodes of the GPU have the number of loop-control,
# which every kernel lets root's group open, and /dev/other that of btrfs-control: what counts is whether systemd lets them by.
# shellcheck disable=SC2016 # the second shell expands it
boot='
for one in systemd devices pids memory; do
    mkdir -p "/sys/fs/cgroup/$one/edge-ad-machine" && echo $$ >"/sys/fs/cgroup/$one/edge-ad-machine/cgroup.procs"
done
exec unshare --cgroup --pid --mount --uts --ipc --fork --propagation private bash -euc "
mount --bind $root $root
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t tmpfs -o mode=755 tmpfs $root/dev
mount -t tmpfs tmpfs $root/run
for one in null zero full random urandom tty kmsg; do touch $root/dev/\$one; mount --bind /dev/\$one $root/dev/\$one; done
mkdir -p $root/dev/pts $root/dev/shm $root/dev/nvgpu/igpu0 $root/dev/dri
mount -t devpts -o ptmxmode=666 devpts $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx; ln -s /proc/self/fd $root/dev/fd
mknod -m 660 $root/dev/nvmap c 10 237
mknod -m 660 $root/dev/nvgpu/igpu0/ctrl c 10 237
mknod -m 660 $root/dev/dri/renderD128 c 10 237
mknod -m 666 $root/dev/other c 10 234
chown root:video $root/dev/nvmap $root/dev/nvgpu/igpu0/ctrl $root/dev/dri/renderD128
mount -t tmpfs -o mode=755 tmpfs $root/sys/fs/cgroup
for one in devices pids memory; do mkdir $root/sys/fs/cgroup/\$one; mount -t cgroup -o \$one cgroup $root/sys/fs/cgroup/\$one; done
mkdir $root/sys/fs/cgroup/systemd; mount -t cgroup -o none,name=systemd cgroup $root/sys/fs/cgroup/systemd
hostname edge-ad-machine
container=other exec chroot $root /lib/systemd/systemd --system --unit=basic.target --log-target=console --log-level=err
"'
log="$root/boot.log"
setsid bash -euc "$boot" >"$log" 2>&1 &
machine=$!
stop() {
    local init
    init="$(pgrep -P "$machine" || true)"
    [ -z "$init" ] || kill -KILL "$init" 2>/dev/null || true
    wait "$machine" 2>/dev/null || true
    for one in "${controllers[@]}"; do
        find "/sys/fs/cgroup/$one/edge-ad-machine" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    done
}
trap stop EXIT
init=""
for _ in $(seq 100); do
    init="$(pgrep -P "$machine" || true)"
    [ -n "$init" ] && [ -e "/proc/$init/root/run/systemd/private" ] && break
    sleep 0.2
done
[ -n "$init" ] || fail "it did not start: $(tail -3 "$log" | tr '\n' ' ')"
nsenter --target "$init" --mount --pid --uts --ipc --cgroup --root --wdns=/station \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root /opt/edge-ad/bin/python /opt/service_machine.py
