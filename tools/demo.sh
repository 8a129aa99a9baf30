#!/usr/bin/env bash
# The whole road on the synthetic line, set-up included. Arguments go to `edge-ad demo`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare train
exec .venv/bin/edge-ad demo "$@"
