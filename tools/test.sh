#!/usr/bin/env bash
# Every check, set-up included: style, types, import rules, tests, the fast tests on the versions of the boards.
# Arguments go to pytest, which then runs on the newest versions alone unless EDGE_AD_SETS names others: all, none or some of
# jetpack6, jetpack7, lowest.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

sets="${EDGE_AD_SETS:-$([ $# -gt 0 ] && echo none || echo all)}"
case "$sets" in all) sets="$version_sets" ;; none) sets="" ;; *) sets="${sets//,/ }" ;; esac
for name in $sets; do set_version "$name" >/dev/null; done

logs="$(mktemp -d)"
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$logs"' EXIT
# What takes one core runs beside other such things: environments of the sets beside that of the newest versions, the checks
# of style, types and imports beside the rest of the set-up and, with the whole suite, beside its first tests.
declare -A base=()
for name in $sets; do base[$name]="$(set_python "$name")"; done
prepare_sets() {
    local name
    for name in $sets; do
        [ -z "${base[$name]}" ] || prepare_set "$name" "${base[$name]}"
    done
}
have_venv  # may need apt-get
have_uv || true
prepare_sets >"$logs/sets" 2>&1 &
preparing_sets=$!
prepare_system >"$logs/system" 2>&1 &
preparing_system=$!
prepare distill,test
check_code() {
    echo "== ruff" && "$python" -m ruff check . &&
        echo "== mypy" && "$python" -m mypy --strict edge_ad calibration &&
        echo "== import rules" && .venv/bin/lint-imports
}
check_code >"$logs/checks" 2>&1 &
checking=$!
wait "$preparing_system" || true  # what is missing is skipped
cat "$logs/system"
prepare_host_programs
prepare_pycuda
failed=0 checks=passed
await_checks() {
    wait "$checking" || failed=1 checks=failed
    cat "$logs/checks"
}
prepared=0
wait "$preparing_sets" || prepared=$?
cat "$logs/sets"
[ "$prepared" = 0 ] || exit "$prepared"
if [ $# -gt 0 ]; then
    await_checks
    [ "$failed" = 0 ] || exit 1
    echo "== pytest"
    [ -n "$sets" ] || { rm -rf "$logs"; exec "$python" -m pytest "$@"; }
fi

# Threads of several parts on the same cores wait for each other by spinning: with two each, torch took ten times the
# processor time of one.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
chosen=("$@")
# Three parts run beside each other: slow tests that train, the other slow ones, which mostly wait, and behind each some of the
# fast ones; the rest of them.
declare -A slow=()
slow_then_fast() {  # SLOW FAST: which slow tests, then which fast ones; fails with either
    local ended=0
    "$python" -m pytest --color=no -p no:cacheprovider -m slow $1 || ended=1
    "$python" -m pytest --color=no -p no:cacheprovider -m "not slow" $2 || ended=1
    return "$ended"
}
if [ $# -eq 0 ]; then
    export EDGE_AD_TEST_EXPORTS="$logs/exports"  # graphs that torch has traced, for all parts
    training="tests/cli tests/demo tests/export tests/models tests/training"
    ignored=$(printf -- "--ignore=%s " $training)
    behind_training="tests/inspection" behind_waiting="tests/outputs tests/store tests/web"
    slow_then_fast "$training" "$behind_training" >"$logs/training" 2>&1 &
    slow[training]=$!
    slow_then_fast "$ignored" "$behind_waiting" >"$logs/waiting" 2>&1 &
    slow[waiting]=$!
    chosen=(-m "not slow" $(printf -- "--ignore=%s " $behind_training $behind_waiting))
    await_checks
    echo "== pytest"
fi
"$python" -m pytest --color="$([ -t 1 ] && echo yes || echo no)" "${chosen[@]}" | tee "$logs/newest" || failed=1

# The sets run beside each other: much of their time is waiting. pytest's own arguments hold for them too.
declare -A running=() skipped=()
for name in $sets; do
    if [ -z "${base[$name]}" ]; then
        skipped[$name]="skipped: no Python $(set_version "$name") with venv on PATH, in ~/.pyenv or from uv, and none named in EDGE_AD_PYTHON_${name^^}"
        continue
    fi
    chosen=("$@")
    [ $# -gt 0 ] || chosen=(-m "not slow or versions" $(set_left_out "$name"))
    ".venv-$name/bin/python" -m pytest --color=no -p no:cacheprovider "${chosen[@]}" >"$logs/$name" 2>&1 &
    running[$name]=$!
done
show_when_done() {  # WHAT NAME PID: the log of a part that ran beside the others
    local status=0
    wait "$3" || status=$?
    [ "$status" = 0 ] || failed=1
    echo "== pytest $1 $2 (exit code $status)"
    cat "$logs/$2"
}
for name in "${!running[@]}"; do show_when_done "on the versions of" "$name" "${running[$name]}"; done
for name in "${!slow[@]}"; do show_when_done "of the part" "$name" "${slow[$name]}"; done
[ "$checks" = passed ] || echo "== ruff, mypy or the import rules failed, see above"
[ -z "$sets" ] || echo "== versions"
for name in $sets; do
    echo "$name: ${skipped[$name]:-$(tail -n 1 "$logs/$name")}"
done
for name in newest "${!slow[@]}"; do
    grep -E "^=+ .* in [0-9.]+s" "$logs/$name" || tail -n 1 "$logs/$name"
done
exit "$failed"
