#!/usr/bin/env bash
# Long trials of the line: all of them in turn, or those named: faults paced guard outputs plc line rtsp record broker web.
#   tools/soak/run.sh [--resume] [--out DIR] [NAME ...] [-- ARGUMENTS FOR EACH]
# Each writes DIR/<name>.json; with --resume a trial that is complete is left out and one that was cut off goes on.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set /s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"

trials="faults paced guard outputs plc line rtsp record broker web"
resume="" out="runs/soak" names=()
while [ $# -gt 0 ]; do
    case "$1" in
        --resume) resume="--resume" ;;
        --out) out="$2"; shift ;;
        --) shift; break ;;
        -*) echo "error: unknown option $1: allowed are --resume, --out DIR and, after --, arguments of the trials" >&2; exit 2 ;;
        *) names+=("$1") ;;
    esac
    shift
done
[ ${#names[@]} -gt 0 ] || read -ra names <<<"$trials"
for name in "${names[@]}"; do
    case " $trials " in *" $name "*) ;; *) echo "error: there is no trial $name: name some of $trials" >&2; exit 2 ;; esac
done
prepare train,test
prepare_services
prepare_tracing
failed=0
mkdir -p "$out"
for name in "${names[@]}"; do
    script="$name" settings=()
    if [ "$name" = paced ]; then # half an hour at the speed of a camera, the freshest frame first
        script=faults settings=(--paced --frames 50400)
    fi
    echo "== $name"
    PYTHONPATH="$root" "$python" "tools/soak/$script.py" --json "$out/$name.json" $resume "${settings[@]}" "$@" || failed=1
done
exit "$failed"
