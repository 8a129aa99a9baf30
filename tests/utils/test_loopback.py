"""The helpers of the tests for ports of loopback."""

from __future__ import annotations

from tests.fixtures.loopback import free_port, listens


def test_a_free_port_is_none_that_the_kernel_hands_out() -> None:
    ports = {free_port() for _ in range(50)}
    assert all(1024 <= port < 32_768 for port in ports)
    assert len(ports) > 25
    assert not any(map(listens, ports))
