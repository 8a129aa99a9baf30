"""One event on every channel: the exact text that files, outputs, the index, images and the dashboard get."""

from __future__ import annotations

import json
import sqlite3
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.events import VERSION, Event, schema
from edge_ad.inspection.observers import EventFile
from edge_ad.store import Store
from edge_ad.store.export import write_csv, write_json
from edge_ad.store.journal import event_line, files, parse
from edge_ad.store.outbox import Outbox
from edge_ad.store.reader import Reader, set_mark
from edge_ad.store.schema import APPLICATION, MIGRATIONS, comment_of, version_of, with_comment
from tests.outputs.events import event

DOCS = Path(__file__).parents[1] / "docs"
ID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
EVENT = Event(
    camera="rtsp://cam.local/übersicht",
    frame=7,
    part="A-17",
    time=1_000_000_000.25,
    verdict="NG",
    score=5.123456789,
    z={"structure": 0.1, "logic": 6.000049},
    latency_ms=12.34567,
    reason='logic: z 6.0; "score" 5.12\nabove 3.00',
    id=ID,
    pose={"x": 320.5, "y": 40.25, "angle": -90.0, "width": 216.0, "height": 64.0, "scale": 1.0, "residual": 0.0421,
          "symmetric": False, "outside": "=the part's x is 320.5"},
    product="cap-red",
    bundle="9f86d081",
    zone="rim",
    peak=(0.25, 0.75),
)
POSE = (
    '"pose":{"x":320.5,"y":40.25,"angle":-90.0,"width":216.0,"height":64.0,"scale":1.0,"residual":0.0421,'
    '"symmetric":false,"outside":"=the part\'s x is 320.5"}'
)
PRODUCT = '"product":"cap-red","bundle":"9f86d081","zone":"rim","peak":[0.25,0.75]'
TEXTS = r'"reason":"logic: z 6.0; \"score\" 5.12\\x0aabove 3.00"'
HEAD = rf'"id":"{ID}","camera":"rtsp://cam.local/\u00fcbersicht","frame":7,"part":"A-17"'
LINE = (
    rf'{HEAD},"time":"2001-09-09T01:46:40.250Z","verdict":"NG","score":5.123457,'
    rf'"z":{{"structure":0.1,"logic":6.0}},"latency_ms":12.346,{TEXTS},{POSE},{PRODUCT},"views":null'
)
JOURNAL = (
    rf'{HEAD},"time":1000000000.25,"verdict":"NG","score":5.123456789,"latency_ms":12.34567,{TEXTS},{PRODUCT},'
    rf'"z":{{"structure":0.1,"logic":6.0}},{POSE},"views":null'
)
PICTURE = JOURNAL.replace("6.0}", "6.000049}", 1)  # from the event itself; the journal is a copy of the index
EXPORT = (
    f'{HEAD},"time":"2001-09-09T01:46:40.250Z","verdict":"NG","score":5.123456789,'
    rf'"z":{{"structure":0.1,"logic":6.0}},"latency_ms":12.34567,{TEXTS},{POSE},{PRODUCT},"views":null,"mark":"bad","images":[]'
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that has committed the event, with journal and one output."""
    path = tmp_path / "line.sqlite"
    writer = Store(path, with_commit=Outbox(["mqtt://broker"], 10, Event.message).add, evidence=tmp_path / "evidence")
    writer.record(EVENT)
    assert writer.close(10)
    return path


def test_a_line_of_the_event_file(tmp_path: Path) -> None:
    writer = EventFile(str(tmp_path / "events.jsonl"))
    writer.write(EVENT)
    writer.close()
    assert (tmp_path / "events.jsonl").read_text() == f"{{{LINE}}}\n"


def test_the_message_of_an_output(store: Path) -> None:
    with sqlite3.connect(store) as connection:
        result = connection.execute("SELECT output, id, verdict, line FROM outbox").fetchall()
    assert result == [("mqtt://broker", ID, "NG", f'{{"schema":1,{LINE}}}')]


def test_a_store_of_earlier_versions_is_read_as_it_is_and_migrated_by_a_run(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE migration (version INTEGER PRIMARY KEY, applied REAL NOT NULL)")
        for number, statements in enumerate(MIGRATIONS[:3], start=1):
            connection.executescript(statements)
            connection.execute("INSERT INTO migration VALUES (?, 0)", (number,))
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"INSERT INTO event VALUES (1, '{ID}', 'cam', 7, 'A-17', 1.0, 'OK', 0.5, '{{}}', 1.0, NULL)")
    with Reader(path) as reader:
        assert [(row.id, row.pose, row.product, row.bundle, row.zone) for row in reader.events()] == [(ID, *[None] * 4)]
        assert version_of(sqlite3.connect(path)) == 3  # reading changes nothing
        store = Store(path)
        store.record(replace(EVENT, id=str(uuid.uuid4())))
        assert store.close(10)
        assert [(row.pose, row.product) for row in reader.events()] == [(EVENT.pose, "cap-red"), (None, None)]


def test_a_line_of_the_journal_of_earlier_versions_is_an_event_without_one() -> None:
    line = json.loads(event_line(1, EVENT))
    for name in ("pose", "product", "bundle", "zone", "peak"):
        del line[name]
    entry = parse(json.dumps(line).encode())
    assert entry.event == replace(EVENT, pose=None, product=None, bundle=None, zone=None, peak=None)
    assert parse(json.dumps({**line, "peak": "here"}).encode()).event is None
    assert parse(json.dumps({**line, "product": 7}).encode()).event is None
    assert parse(json.dumps({**line, "pose": "here"}).encode()).event is None


def test_the_row_of_the_index(store: Path) -> None:
    with sqlite3.connect(store) as connection:
        result = connection.execute("SELECT * FROM event").fetchall()
    z = '{"structure":0.1,"logic":6.0}'
    reason = r'logic: z 6.0; "score" 5.12\x0aabove 3.00'
    head = (1, ID, "rtsp://cam.local/übersicht", 7, "A-17", 1_000_000_000.25, "NG")
    pose = POSE.removeprefix('"pose":')
    assert result == [(*head, 5.123456789, z, 12.34567, reason, pose, "cap-red", "9f86d081", "rim", "[0.25, 0.75]", None)]


def test_a_line_of_the_journal(store: Path) -> None:
    (journal,) = files(store.parent / "evidence")
    assert journal.read_text().splitlines()[0] == f'{{"sequence":1,{JOURNAL}}}'


def test_the_comment_of_a_picture() -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    assert comment_of(with_comment(jpeg, event_line(0, EVENT))) == f'{{"sequence":0,{PICTURE}}}'


def test_exports(store: Path, tmp_path: Path) -> None:
    set_mark(store, ID, "bad", "test")
    with Reader(store) as reader:
        write_json(tmp_path / "out.json", reader.every())
        write_csv(tmp_path / "out.csv", reader.every(), ("structure", "logic"))
    (row,) = (tmp_path / "out.json").read_text().splitlines()[1:-1]
    assert row == json.dumps(json.loads(f"{{{EXPORT}}}"))
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "id,time,camera,frame,part,verdict,score,latency_ms,reason,mark,images,z_structure,z_logic,"
        "pose_x,pose_y,pose_angle,pose_width,pose_height,pose_scale,pose_residual,pose_symmetric,pose_outside,product,bundle,"
        "zone,peak_x,peak_y,views",
        f"{ID},2001-09-09T01:46:40.250Z,rtsp://cam.local/übersicht,7,A-17,NG,5.123456789,12.34567,"
        r'"logic: z 6.0; ""score"" 5.12\x0aabove 3.00",bad,,0.1,6.0,'
        "320.5,40.25,-90.0,216.0,64.0,1.0,0.0421,False,'=the part's x is 320.5,cap-red,9f86d081,rim,0.25,0.75,",
    ]


def test_the_record_api(store: Path) -> None:
    pytest.importorskip("fastapi")
    from edge_ad.web.record import shown
    from edge_ad.web.schemas import Event as WebEvent

    set_mark(store, ID, "bad", "test")
    with Reader(store) as reader:
        result = WebEvent.model_validate(shown(reader.events()[0]))
    head = HEAD.replace("\\u00fc", "ü").replace(",", ',"sequence":1,', 1)
    expected = (
        rf'{{{head},"time":1000000000.25,"verdict":"NG","score":5.123457,"z":{{"structure":0.1,"logic":6.0}},'
        rf'"latency_ms":12.34567,{TEXTS},{POSE},{PRODUCT},"views":null,"mark":"bad","images":0}}'
    )
    assert result.model_dump_json() == expected


def test_the_schema_of_the_record_api() -> None:
    pytest.importorskip("fastapi")
    from edge_ad.web.schemas import Event as WebEvent

    def either(kind: str) -> dict[str, Any]:
        return {"anyOf": [{"type": kind}, {"type": "null"}]}

    expected = {
        "id": {"type": "string"},
        "sequence": {"type": "integer"},
        "camera": {"type": "string"},
        "frame": either("integer"),
        "part": either("string"),
        "time": {"type": "number"},
        "verdict": {"enum": ["OK", "WARN", "NG", "NONE"], "type": "string"},
        "score": either("number"),
        "z": {"additionalProperties": either("number"), "type": "object"},
        "latency_ms": either("number"),
        "reason": either("string"),
        "pose": either("object"),
        "product": either("string"),
        "bundle": either("string"),
        "zone": either("string"),
        "peak": {
            "anyOf": [
                {"maxItems": 2, "minItems": 2, "prefixItems": [{"type": "number"}, {"type": "number"}], "type": "array"},
                {"type": "null"},
            ]
        },
        "views": {"anyOf": [{"items": {"type": "object"}, "type": "array"}, {"type": "null"}]},
        "mark": {"anyOf": [{"enum": ["good", "bad"], "type": "string"}, {"type": "null"}]},
        "images": {"type": "integer"},
    }
    schema = WebEvent.model_json_schema()
    without_titles = {key: {k: v for k, v in one.items() if k != "title"} for key, one in schema["properties"].items()}
    # Newer versions of pydantic say what holds without it.
    for facts in (without_titles["pose"]["anyOf"][0], without_titles["views"]["anyOf"][0]["items"]):
        facts.pop("additionalProperties", None)
    assert (schema["title"], list(without_titles), schema["required"]) == ("Event", list(expected), list(expected))
    assert without_titles == expected


def test_a_live_event_of_the_dashboard() -> None:
    pytest.importorskip("fastapi")
    from edge_ad.web.status import event_row

    expected = (
        rf'{{"id":"{ID}","camera":3,"frame":7,"part":"A-17","time":1000000000.25,"verdict":"NG","score":5.123457,'
        rf'"z":{{"structure":0.1,"logic":6.000049}},"latency_ms":12.34567,{TEXTS},{POSE},{PRODUCT},"views":null}}'
    )
    assert json.dumps(event_row(3, EVENT), separators=(",", ":")) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_null_where_it_must_not_stop_the_channel(value: float) -> None:
    pytest.importorskip("fastapi")
    from edge_ad.web.status import event_row

    odd = Event(**{**asdict(EVENT), "score": value, "z": {"logic": value}, "latency_ms": value})
    for record in (json.loads(odd.message()), json.loads(event_line(1, odd)), event_row(0, odd)):
        assert (record["score"], record["z"], record["latency_ms"]) == (None, {"logic": None}, None)


def test_a_message_is_the_line_of_the_event_file_with_a_version_before_it() -> None:
    assert json.loads(EVENT.message()) == {"schema": VERSION, **json.loads(EVENT.line())}
    assert EVENT.message().startswith('{"schema":1,"id":')


def test_the_published_schema_is_the_one_of_the_code() -> None:
    assert json.loads((DOCS / "event.schema.json").read_text()) == schema()


NUMBER = st.none() | st.floats()


def pose_record(number: float, symmetric: bool, outside: str | None) -> dict[str, Any]:
    """Return a pose as an event has it, all its numbers equal."""
    numbers = dict.fromkeys(("x", "y", "angle", "width", "height", "scale", "residual"), number)
    return {**numbers, "symmetric": symmetric, "outside": outside}


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
        pose=st.none() | st.builds(pose_record, st.floats(), st.booleans(), st.none() | st.text(max_size=20)),
        product=st.none() | st.text(max_size=20),
    )
)
def test_every_event_keeps_to_the_schema(one: Any) -> None:
    validator = pytest.importorskip("jsonschema_rs").validator_for(schema(), validate_formats=True)
    result = json.loads(one.message())
    validator.validate(result)
    for key in result:
        with pytest.raises(Exception, match="required"):
            validator.validate({name: value for name, value in result.items() if name != key})
