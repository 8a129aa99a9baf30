#!/usr/bin/env bash
# The whole road on the synthetic line, set-up included. Arguments go to `edge-ad demo`.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare train
exec .venv/bin/edge-ad demo "$@"
