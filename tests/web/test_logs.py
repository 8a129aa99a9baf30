"""The log of a run with a dashboard: both processes write the same lines, and no token stands in them."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.web.running import line, until

pytestmark = pytest.mark.any_version

FULL, READ = "full-token-of-this-test", "read-token-of-this-test"


@pytest.mark.parametrize("given", [False, True], ids=["made", "given"])
def test_run_and_dashboard_log_json_without_tokens(given: bool, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    environment = {"EDGE_AD_WEB_TOKEN": FULL, "EDGE_AD_WEB_READ_TOKEN": READ} if given else {}
    options = ("--log-format", "json", "--verbose")
    with line(tmp_path, bundle, *options, address="0.0.0.0:0", environment=environment) as run:
        assert run.token is not None
        assert run.ask("/api/state", token="x" * 16).status == 401
        with socket.create_connection(("127.0.0.1", run.port)) as peer:
            peer.sendall(b"no request\r\n\r\n")
            until(lambda: any("Invalid HTTP request" in text for text in run.said))
    records = [json.loads(text) for text in run.said if text.startswith("{")]
    plain = [text for text in run.said if not text.startswith("{")]
    loggers = {record["logger"] for record in records}
    assert {"uvicorn.error", "edge_ad.utils.supervision"} <= loggers
    assert not any(token in json.dumps(records) for token in (run.token, FULL, READ))
    # The address and a token that was made are for the person who starts the run: printed, not logged.
    assert len(plain) == (1 if given else 2), plain
    assert plain[0].startswith("dashboard: http://")
    assert given or plain[1].endswith(f": {run.token}")
