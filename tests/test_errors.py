"""Exit codes are a contract with scripts; messages must name the way out."""

from __future__ import annotations

import json

import pytest

from edge_ad.errors import BadInput, DeviceFault, EdgeAdError, GateRefused, require


@pytest.mark.parametrize(("error", "code"), [(BadInput, 2), (DeviceFault, 3), (GateRefused, 4), (EdgeAdError, 1)])
def test_exit_codes(error: type[EdgeAdError], code: int) -> None:
    assert error("a sentence").exit_code == code
    assert issubclass(error, EdgeAdError)


def test_require_returns_the_module() -> None:
    assert require("json", extra="cpu", needed_by="a test") is json


def test_require_names_the_pip_command() -> None:
    with pytest.raises(BadInput) as caught:
        require("edge_ad_missing_package", extra="cpu", needed_by="edge-ad run")
    message = str(caught.value)
    assert "edge-ad run" in message
    assert "edge_ad_missing_package" in message
    assert "pip install 'edge-ad[cpu]'" in message
