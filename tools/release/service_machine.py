"""The checks of service_machine.sh, inside the machine: the unit is installed, started, looked at and stopped."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from edge_ad.system.service import transient

EDGE_AD = "/opt/edge-ad/bin/edge-ad"
UNIT = Path("/etc/systemd/system/edge-ad.service")
SIGNALS = Path("/station/signals.log")
# gives images as a sensor would, writes down what ended it, and dies at a second SIGINT as gst-launch does
LAUNCHER = """#!/usr/bin/python3
import os, signal, sys, time
log, stop = open("/station/signals.log", "a", buffering=1), []
def interrupted(number, frame):
    log.write("SIGINT ")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    stop.append(number)
signal.signal(signal.SIGINT, interrupted)
signal.signal(signal.SIGTERM, lambda *_: (log.write("SIGTERM "), os._exit(1)))
fd = int(sys.argv[-1].partition("=")[2])
while not stop:
    os.write(fd, b"P6\\n64 48\\n255\\n" + os.urandom(64 * 48 * 3))
    time.sleep(0.03)
time.sleep(0.5)
log.write("taken down")
"""
SEEN = r"""
for node in /dev/nvmap /dev/nvgpu/igpu0/ctrl /dev/dri/renderD128 /dev/other; do
    (exec 3<$node) 2>/dev/null && echo "$node opens" || echo "$node refused"
done
/usr/bin/python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("/tmp/argus_socket"); print("argus answers")'
touch /tmp/x 2>/dev/null && echo "/tmp written" || echo "/tmp read-only"
touch "$TMPDIR/x" && echo "TMPDIR written"
touch /station/.x && echo "station written"
touch /home/inspector/x 2>/dev/null && echo "home written" || echo "home read-only"
"""
failed: list[str] = []


def report_check(good: bool, what: str) -> None:
    """Print one line of the outcome."""
    print(f"{'ok  ' if good else 'fail'}  {what}", flush=True)
    if not good:
        failed.append(what)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it said."""
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def argus() -> None:
    """Listen where Argus does."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("/tmp/argus_socket")
    Path("/tmp/argus_socket").chmod(0o777)
    listener.listen()
    threading.Thread(target=lambda: [listener.accept() for _ in range(1000)], daemon=True).start()


def opened(unit: str) -> list[str]:
    """Return what a command sees under the properties of a unit."""
    return run(*transient(unit, "edge-ad"), "/bin/bash", "-c", SEEN).stdout.splitlines()


def main() -> None:
    """Look at everything, and leave with 1 when something failed."""
    Path("/tmp/argus_socket").unlink(missing_ok=True)
    argus()
    launcher = Path("/usr/local/bin/gst-launch-1.0")
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    version = run("systemctl", "--version").stdout.splitlines()[0]
    done = run(EDGE_AD, "service", "install", "--bundle", "tiny.edgead", "--user", "inspector", "--folder", "/station")
    report_check(done.returncode == 0, f"{version}: service install; {done.stderr.strip() or done.stdout.splitlines()[0]}")
    unit = UNIT.read_text()
    lines = opened(unit)
    for wanted in (
        "/dev/nvmap opens",
        "/dev/nvgpu/igpu0/ctrl opens",
        "/dev/dri/renderD128 opens",
        "/dev/other refused",
        "argus answers",
        "/tmp read-only",
        "TMPDIR written",
        "station written",
        "home read-only",
    ):
        report_check(wanted in lines, f"under the unit: {wanted}")
    closed = re.sub(r"^DeviceAllow=/.*\n", "", unit, flags=re.MULTILINE)
    report_check("/dev/nvmap refused" in opened(closed), "without the paths of its nodes: /dev/nvmap refused")

    done = run("systemctl", "start", "edge-ad")
    time.sleep(3)
    state = run("systemctl", "show", "edge-ad", "-p", "ActiveState,StatusText,NRestarts").stdout.split("\n")
    report_check(done.returncode == 0 and "ActiveState=active" in state, f"started: {', '.join(filter(None, state))}")
    began = time.monotonic()
    run("systemctl", "stop", "edge-ad")
    ended = SIGNALS.read_text() if SIGNALS.exists() else "nothing"
    report_check(ended == "SIGINT taken down", f"stopped in {time.monotonic() - began:.1f} s; the camera's process: {ended}")

    output = run(EDGE_AD, "doctor").stdout
    service = next((line for line in output.splitlines() if re.match(r"\w+ +service ", line)), "nothing of the service")
    report_check(service.startswith("ok") and "tried under its unit" in service, f"doctor: {service}")
    UNIT.write_text(closed)
    output = run(EDGE_AD, "doctor").stdout
    report_check("its unit does not open /dev/nvmap" in output, "doctor: a unit that does not open the GPU is told")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
