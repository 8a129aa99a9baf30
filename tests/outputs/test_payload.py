"""What goes out: the line of the event file, a version, and a schema that both keep to."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.inspection.events import Event
from edge_ad.outputs.payload import VERSION, payload, schema
from tests.outputs.events import event

DOCS = Path(__file__).parents[2] / "docs"


def test_it_is_the_line_of_the_event_file_with_a_version_before_it() -> None:
    one = event(3, "NG")
    assert json.loads(payload(one)) == {"schema": VERSION, **json.loads(Event(**asdict(one)).line())}
    assert payload(one).startswith('{"schema":1,"id":')


def test_a_number_that_is_not_finite_becomes_null() -> None:
    found = json.loads(payload(event(score=float("nan"), z={"logic": float("inf")}, latency_ms=None)))
    assert (found["score"], found["z"], found["latency_ms"]) == (None, {"logic": None}, None)


def test_the_published_schema_is_the_one_of_the_code() -> None:
    assert json.loads((DOCS / "event.schema.json").read_text()) == schema()


NUMBER = st.none() | st.floats()


@given(
    st.builds(
        event,
        frame=st.none() | st.integers(0, 10**9),
        part=st.none() | st.text(max_size=20),
        time=st.floats(0, 4e9),
        verdict=st.sampled_from(["OK", "WARN", "NG", "NONE"]),
        score=NUMBER,
        z=st.dictionaries(st.text(max_size=8), st.floats(), max_size=3),
        latency_ms=NUMBER,
        reason=st.none() | st.text(max_size=20),
    )
)
def test_every_event_keeps_to_the_schema(one: Any) -> None:
    validator = pytest.importorskip("jsonschema_rs").validator_for(schema(), validate_formats=True)
    found = json.loads(payload(one))
    validator.validate(found)
    for key in found:
        with pytest.raises(Exception, match="required"):
            validator.validate({name: value for name, value in found.items() if name != key})
