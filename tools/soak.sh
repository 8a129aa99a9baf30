#!/usr/bin/env bash
# Long trials of the line: every tools/soak_*.py in turn, or those named.
#   tools/soak.sh [--resume] [--out DIR] [NAME ...] [-- ARGUMENTS FOR EACH]
# Each writes DIR/<name>.json; with --resume a trial that is complete is left out and one that was cut off goes on.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set /s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

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
prepare train,test
prepare_services
prepare_tracing
if [ ${#names[@]} -eq 0 ]; then
    for file in tools/soak_*.py; do
        name="$(basename "$file" .py)"
        names+=("${name#soak_}")
    done
fi
failed=0
mkdir -p "$out"
for name in "${names[@]}"; do
    [ -f "tools/soak_$name.py" ] || { echo "error: there is no trial $name" >&2; exit 2; }
    echo "== $name"
    PYTHONPATH="$root" "$python" "tools/soak_$name.py" --json "$out/$name.json" $resume "$@" || failed=1
done
exit "$failed"
