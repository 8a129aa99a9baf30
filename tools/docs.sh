#!/usr/bin/env bash
# The site of the documentation, with warnings as errors: runs/site/index.html.
#   tools/docs.sh [--serve]
# --serve shows it at http://127.0.0.1:8000 and builds again at every change.
set -euo pipefail
case "${1:-}" in
    -h | --help) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    "" | --serve) ;;
    *) echo "error: unknown argument $1: allowed is --serve" >&2; exit 2 ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare docs
export NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true
if [ "${1:-}" = --serve ]; then
    exec "$python" -m mkdocs serve
fi
"$python" -m mkdocs build --strict --clean  # not --quiet: warnings that are not logged are not counted
echo "runs/site/index.html"
