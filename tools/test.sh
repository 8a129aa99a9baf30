#!/usr/bin/env bash
# Every check of the house, set-up included: style, types, import rules, tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare distill,test
prepare_cameras
echo "== ruff"
"$python" -m ruff check .
echo "== mypy"
"$python" -m mypy --strict edge_ad calibration
echo "== import rules"
.venv/bin/lint-imports
echo "== pytest"
exec "$python" -m pytest "$@"
