"""Waiting times grow, are bounded, jitter, and begin anew."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from edge_ad.outputs.dispatcher import FIRST_PAUSE_S, MAX_PAUSE_S
from edge_ad.utils.supervision import Backoff


@given(st.floats(0.01, 1.0), st.floats(1.0, 60.0), st.none() | st.integers(0, 2**32), st.integers(1, 60))
@example(FIRST_PAUSE_S, MAX_PAUSE_S, None, 60)
def test_back_off_grows_is_bounded_jitters_and_begins_anew(
    first_s: float, cap_s: float, seed: int | None, tries: int
) -> None:
    backoff = Backoff(first_s, cap_s, seed)
    for attempt in range(tries):
        whole = min(first_s * 2**attempt, cap_s)
        assert whole / 2 <= backoff.next_s() <= whole
    backoff.reset()
    assert backoff.next_s() <= first_s
