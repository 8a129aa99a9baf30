"""Requests made from the OpenAPI document by schemathesis: whatever is sent, the server does not break."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from edge_ad.bundle import open_bundle
from tests.web.running import Line

pytestmark = pytest.mark.slow
EXAMPLES = 12


def test_no_request_of_the_document_breaks_the_server(open_line: Line) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="pip install 'edge-ad[test]'")
    from schemathesis.checks import not_a_server_error

    schema = schemathesis.openapi.from_url(f"{open_line.url}openapi.json")
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/api/stream":  # it never ends; other tests read it
            continue

        @settings(
            max_examples=EXAMPLES, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )
        def try_out(case: object) -> None:
            nonlocal tried
            tried += 1
            answer = case.call(base_url=open_line.url, headers={"X-Edge-Ad": "1"}, timeout=30)  # type: ignore[attr-defined]
            case.validate_response(answer, checks=[not_a_server_error])  # type: ignore[attr-defined]

        given(case=operation.as_strategy())(try_out)()
    assert tried >= 100
    before = open_bundle(open_line.bundle).thresholds
    assert open_line.ask("/api/thresholds", {"warn": before.warn, "ng": before.ng}).json()["running"]
    assert open_line.process.poll() is None
