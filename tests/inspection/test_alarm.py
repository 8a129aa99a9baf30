"""The alarm: every transition by hand, and what must hold for any sequence of parts, acknowledges and waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.config import AlarmTable
from edge_ad.errors import BadInput
from edge_ad.inspection.alarm import (
    PHASES,
    AlarmState,
    Phase,
    Sign,
    on_acknowledge,
    on_part,
    on_time,
    raise_counts,
    sign_of,
)

# Two of three parts raise, two clear ones in a row end; the lamp burns for 10 s at least.
PLAIN = AlarmTable(raise_parts="2/3", clear_after=2, min_on_s=10.0)
LATCHED = PLAIN.model_copy(update={"latch": True})

START = {  # each phase as it is reached, lit at second 100
    "quiet": AlarmState("quiet", 7),
    "pending": AlarmState("pending", 7, (True,)),
    "alarm": AlarmState("alarm", 7, (True, True), 0, lit_at=100.0),
    "acknowledged": AlarmState("acknowledged", 7, (), 0, lit_at=100.0),
    "latched": AlarmState("latched", 7, (), 2, lit_at=100.0),
    "held": AlarmState("held", 7, (), 2, lit_at=100.0),
}

# Every phase against every input. `one more` means: the same kind of part for the second time in a row.
# Times: `early` is second 105 (the minimum on-time runs), `later` second 110 (it is over).
TABLE: list[tuple[Phase, str, Phase, Phase, Phase, Phase]] = [
    # phase, input, plain early, plain later, latching early, latching later
    ("quiet", "bad", "pending", "pending", "pending", "pending"),
    ("quiet", "bad twice", "alarm", "alarm", "alarm", "alarm"),
    ("quiet", "between", "quiet", "quiet", "quiet", "quiet"),
    ("quiet", "clear", "quiet", "quiet", "quiet", "quiet"),
    ("quiet", "acknowledge", "quiet", "quiet", "quiet", "quiet"),
    ("quiet", "time", "quiet", "quiet", "quiet", "quiet"),
    ("pending", "bad", "alarm", "alarm", "alarm", "alarm"),
    ("pending", "bad twice", "alarm", "alarm", "alarm", "alarm"),
    ("pending", "between", "pending", "pending", "pending", "pending"),
    ("pending", "clear", "pending", "pending", "pending", "pending"),
    ("pending", "clear three times", "quiet", "quiet", "quiet", "quiet"),
    ("pending", "acknowledge", "pending", "pending", "pending", "pending"),
    ("pending", "time", "pending", "pending", "pending", "pending"),
    ("alarm", "bad", "alarm", "alarm", "alarm", "alarm"),
    ("alarm", "between", "alarm", "alarm", "alarm", "alarm"),
    ("alarm", "clear", "alarm", "alarm", "alarm", "alarm"),
    ("alarm", "clear twice", "held", "quiet", "latched", "latched"),
    ("alarm", "acknowledge", "acknowledged", "acknowledged", "acknowledged", "acknowledged"),
    ("alarm", "acknowledge an older one", "alarm", "alarm", "alarm", "alarm"),
    ("alarm", "time", "alarm", "alarm", "alarm", "alarm"),
    ("acknowledged", "bad", "acknowledged", "acknowledged", "acknowledged", "acknowledged"),
    ("acknowledged", "bad twice", "alarm", "alarm", "alarm", "alarm"),
    ("acknowledged", "between", "acknowledged", "acknowledged", "acknowledged", "acknowledged"),
    ("acknowledged", "clear", "acknowledged", "acknowledged", "acknowledged", "acknowledged"),
    ("acknowledged", "clear twice", "held", "quiet", "held", "quiet"),
    ("acknowledged", "acknowledge", "acknowledged", "acknowledged", "acknowledged", "acknowledged"),
    ("acknowledged", "time", "acknowledged", "acknowledged", "acknowledged", "acknowledged"),
    ("latched", "bad", "latched", "latched", "latched", "latched"),
    ("latched", "bad twice", "alarm", "alarm", "alarm", "alarm"),
    ("latched", "between", "latched", "latched", "latched", "latched"),
    ("latched", "clear", "latched", "latched", "latched", "latched"),
    ("latched", "acknowledge", "held", "quiet", "held", "quiet"),
    ("latched", "acknowledge an older one", "latched", "latched", "latched", "latched"),
    ("latched", "time", "latched", "latched", "latched", "latched"),
    ("held", "bad", "held", "pending", "held", "pending"),
    ("held", "bad twice", "alarm", "alarm", "alarm", "alarm"),
    ("held", "between", "held", "quiet", "held", "quiet"),
    ("held", "clear", "held", "quiet", "held", "quiet"),
    ("held", "acknowledge", "held", "held", "held", "held"),
    ("held", "time", "held", "quiet", "held", "quiet"),
]
TIMES = {"": 1, "twice": 2, "three times": 3}


def apply(state: AlarmState, rule: AlarmTable, what: str, now: float) -> AlarmState:
    if what == "time":
        return on_time(state, rule, now)
    if what.startswith("acknowledge"):
        return on_acknowledge(state, rule, state.number - what.endswith("older one"), now)
    sign, _, often = what.partition(" ")
    for _ in range(TIMES[often]):
        state = on_part(state, rule, sign, now)  # type: ignore[arg-type]
    return state


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_every_transition(row: tuple[str, ...]) -> None:
    start, what, *expected = row
    results = [apply(START[start], rule, what, now).phase for rule in (PLAIN, LATCHED) for now in (105.0, 110.0)]
    assert results == expected


def test_the_table_is_complete() -> None:
    inputs = {"bad", "between", "clear", "acknowledge", "time"}
    assert {(phase, what) for phase, what, *_ in TABLE} >= {(phase, what) for phase in PHASES for what in inputs}


def test_only_a_new_alarm_gets_a_new_number() -> None:
    numbers = {start: apply(START[start], LATCHED, "bad twice", 105.0).number for start in PHASES}
    assert numbers == {"quiet": 8, "pending": 8, "alarm": 7, "acknowledged": 8, "latched": 8, "held": 8}


@pytest.mark.parametrize(
    ("verdict", "score", "warn_rejects", "sign"),
    [
        ("NG", 9.0, False, "bad"),
        ("NONE", None, False, "bad"),
        ("WARN", 3.0, False, "between"),
        ("WARN", 3.0, True, "bad"),
        ("OK", 1.0, False, "clear"),
        ("OK", 1.5, False, "clear"),
        ("OK", 1.51, False, "between"),
    ],
)
def test_what_a_part_stands_for(verdict: str, score: float | None, warn_rejects: bool, sign: str) -> None:
    rule = AlarmTable(clear_below=1.5, warn_rejects=warn_rejects)
    assert sign_of(rule, verdict, score) == sign  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", ["3/2", "1/1001"])
def test_rules_refused(parts: str) -> None:
    with pytest.raises(BadInput, match="write N/M"):
        raise_counts(AlarmTable(raise_parts=parts))


def test_an_alarm_comes_back_after_a_restart() -> None:
    for state in START.values():
        again = AlarmState.from_json(state.to_json(), 5.0)
        assert (again.phase, again.number, again.recent, again.streak) == (
            state.phase,
            state.number,
            state.recent,
            state.streak,
        )
        assert again.lit_at == 5.0
    for broken in ({}, {**START["alarm"].to_json(), "phase": "on"}, {**START["alarm"].to_json(), "number": "x"}):
        with pytest.raises(BadInput):
            AlarmState.from_json(broken, 0.0)


SIGNS: st.SearchStrategy[Sign] = st.sampled_from(["bad", "between", "clear"])
STEP = st.tuples(
    st.one_of(SIGNS, st.just("acknowledge"), st.just("acknowledge an older one"), st.just("time")),
    st.floats(0.0, 20.0),
)
RULE = st.builds(
    lambda n, extra, clear, on, latch: AlarmTable(
        raise_parts=f"{n}/{n + extra}", clear_after=clear, min_on_s=on, latch=latch
    ),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(1, 4),
    st.floats(0.0, 30.0),
    st.booleans(),
)


@given(RULE, st.lists(STEP, max_size=60))
def test_no_lamp_flickers_and_no_acknowledge_hides_a_new_alarm(rule: AlarmTable, steps: list[tuple[str, float]]) -> None:
    state, now = AlarmState(), 0.0
    acknowledged, lit_since = 0, None
    for what, wait in steps:
        now += wait
        before, state = state, apply(state, rule, what, now)
        if what == "acknowledge" and before.lit:
            acknowledged = max(acknowledged, before.number)
        if state.lit and not before.lit:
            lit_since = now
        if before.lit and not state.lit:
            assert lit_since is not None
            assert now - lit_since >= rule.min_on_s  # it burnt long enough
            assert not rule.latch or acknowledged >= before.number  # and somebody saw it
        if state.number > before.number:
            assert state.number == before.number + 1
            assert state.phase == "alarm"  # a new alarm always waits for somebody
        if what.startswith("acknowledge"):
            assert state.number == before.number
            assert what != "acknowledge an older one" or state.phase == before.phase


@given(RULE, st.lists(SIGNS, min_size=1, max_size=80))
def test_an_alarm_is_raised_exactly_when_n_of_m_are_bad(rule: AlarmTable, signs: list[Sign]) -> None:
    """Until the first alarm the machine agrees with counting by hand."""
    state = AlarmState()
    raise_n, raise_m = raise_counts(rule)
    for place, sign in enumerate(signs):
        state = on_part(state, rule, sign, float(place))
        last = signs[max(0, place + 1 - raise_m) : place + 1]
        due = sign == "bad" and last.count("bad") >= raise_n
        assert state.lit == due
        if due:
            break
