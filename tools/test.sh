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
declare -A running=() skipped=()  # parts of the suite
finish() {  # whatever ends the script, what its parts have written until then is shown
    local status=$? process
    kill $(jobs -p) 2>/dev/null || true
    for process in "${!running[@]}"; do
        echo "== pytest: ${running[$process]} (not finished)"
        tail -n 40 "$logs/${running[$process]}" || true
    done
    rm -rf "$logs"
    exit "$status"
}
trap finish EXIT
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
failed=0 checks=passed
await_checks() {
    wait "$checking" || failed=1 checks=failed
    cat "$logs/checks"
}
prepared=0
wait "$preparing_sets" || prepared=$?
cat "$logs/sets"
[ "$prepared" = 0 ] || exit "$prepared"

# Parts of the suite run beside each other, one more than there are cores, since many of them mostly wait; the next one begins
# when one has ended and been shown. With more of them, what is called for within a second comes too late.
beside=$(($(nproc) + 1))
started=()
declare -A began=() ended=()  # seconds after the start of this script
start_part() {  # NAME PYTHON ARGUMENTS of pytest
    local name="$1" program="$2"
    shift 2
    [ "${#running[@]}" -lt "$beside" ] || await_part
    "$program" -m pytest --color=no -p no:cacheprovider "$@" >"$logs/$name" 2>&1 &
    running[$!]="$name"
    started+=("$name")
    began[$name]=$SECONDS
}
await_part() {
    local process status=0
    while true; do
        for process in "${!running[@]}"; do kill -0 "$process" 2>/dev/null || break 2; done
        sleep 0.2
    done
    wait "$process" || status=$?
    [ "$status" = 0 ] || failed=1
    ended[${running[$process]}]=$SECONDS
    echo "== pytest: ${running[$process]} (exit code $status)"
    cat "$logs/${running[$process]}"
    unset "running[$process]"
}
ignored() { printf -- "--ignore=%s " "$@"; }
start_sets() {  # ARGUMENTS of pytest, in the place of what each set runs by itself
    local name
    for name in $sets; do
        if [ -z "${base[$name]}" ]; then
            skipped[$name]="skipped: no Python $(set_version "$name") with venv on PATH, in ~/.pyenv or from uv, and none named in EDGE_AD_PYTHON_${name^^}"
        elif [ $# -gt 0 ]; then
            start_part "$name" ".venv-$name/bin/python" "$@"
        else
            start_part "$name" ".venv-$name/bin/python" -m "not any_version and (not slow or versions)" $(set_tests "$name")
        fi
    done
}
# Threads of several parts on the same cores wait for each other by spinning: with two each, torch took ten times the
# processor time of one.
several() { export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"; }

# What trains, exports and calculates needs nothing but .venv, and comes first; of the others the longest.
training="tests/demo tests/models tests/training" exporting="tests/cli tests/export" pages="tests/web"
calculating="tests/bundle tests/calibration tests/data tests/evaluation tests/export tests/geometry tests/models tests/presets
tests/scoring tests/synthetic tests/training"
line="tests/inspection" receivers="tests/outputs tests/store tests/web" engines="tests/deployment tests/engines"
if [ $# -eq 0 ]; then
    several
    export EDGE_AD_TEST_EXPORTS="$logs/exports"  # graphs that torch has traced, for all parts
    start_part "slow, training" "$python" -m slow $training
    start_part "slow, exporting" "$python" -m slow $exporting
    start_part "calculating" "$python" -m "not slow" $calculating
fi
wait "$preparing_system" || true  # what is missing is skipped
cat "$logs/system"
prepare_host_programs
prepare_object_store
prepare_pycuda
if [ $# -eq 0 ]; then
    start_part "slow, the rest" "$python" -m slow $(ignored $training $exporting $pages)
    start_sets
    start_part "slow, pages" "$python" -m slow $pages
    start_part "receivers" "$python" -m "not slow" $receivers
    start_part "line" "$python" -m "not slow" $line
    start_part "the rest" "$python" -m "not slow" $(ignored $calculating $line $receivers $engines)
    start_part "engines" "$python" -m "not slow" $engines
    await_checks
else
    await_checks
    [ "$failed" = 0 ] || exit 1
    echo "== pytest"
    [ -n "$sets" ] || { rm -rf "$logs"; exec "$python" -m pytest "$@"; }
    several
    "$python" -m pytest --color="$([ -t 1 ] && echo yes || echo no)" "$@" | tee "$logs/newest" || failed=1
    started+=(newest)
    start_sets "$@"
fi
while [ "${#running[@]}" -gt 0 ]; do await_part; done

[ "$checks" = passed ] || echo "== ruff, mypy or the import rules failed, see above"
echo "== parts"
for name in "${started[@]}"; do
    seconds="${began[$name]+ from ${began[$name]} to ${ended[$name]} s}"
    echo "$name$seconds: $(grep -E "^=+ .* in [0-9.]+s" "$logs/$name" || tail -n 1 "$logs/$name")"
done
for name in "${!skipped[@]}"; do echo "$name: ${skipped[$name]}"; done
exit "$failed"
