#!/usr/bin/env bash
# Every check of the house, set-up included: style, types, import rules, tests. Arguments go to pytest.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare distill,test
prepare_cameras
prepare_services
prepare_browser
prepare_tracing
prepare_pycuda
echo "== ruff"
"$python" -m ruff check .
echo "== mypy"
"$python" -m mypy --strict edge_ad calibration
echo "== import rules"
.venv/bin/lint-imports
echo "== pytest"
exec "$python" -m pytest "$@"
