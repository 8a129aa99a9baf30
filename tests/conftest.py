"""Fixtures of more than one file, made once a session where they are dear."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

import edge_ad.training  # noqa: F401  before a test loads torch: its waiting threads then leave the other parts their time
from tests.fixtures.extras import left_out

FOLDER = "EDGE_AD_TEST_EXPORTS"  # of tests/fixtures/exports.py, which needs torch

# A shell that starts a job in the background lets it ignore Ctrl-C, and so all that it starts: the tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_ad.bundle import Bundle
    from edge_ad.engines.pipeline import Pipeline
    from tests.fixtures.mosquitto import Mosquitto
    from tests.fixtures.trained import Trained

# Time never fails a test: a loaded machine is slow, not wrong. The examples are the same in every run, so that a failure
# is there again; `pytest --hypothesis-profile search` looks for new ones.
settings.register_profile("edge-ad", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("edge-ad")

collect_ignore = [path for paths in left_out().values() for path in paths]


def pytest_configure(config: pytest.Config) -> None:
    """Name a folder for graphs that torch traced, where tools/test.sh has named none for all its parts."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = traced = tempfile.mkdtemp(prefix="edge-ad-exports-")
        config.add_cleanup(lambda: shutil.rmtree(traced, ignore_errors=True))
        config.add_cleanup(lambda: os.environ.pop(FOLDER, None))


@pytest.fixture(scope="module", autouse=True)
def frozen_objects() -> None:
    """Keep what imports and earlier files of tests have left, a million objects, out of every garbage collection from here on.

    The fake GPU collects several times a test to see that nothing is left, which took a tenth of a second each.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not collected, so that no smaller suite passes for the whole one."""
    for reason, paths in left_out().items():
        terminalreporter.write_line(f"not collected, {reason}: tests/{', tests/'.join(paths)}")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A bundle of the tiny preset, really trained (two steps a network) on 24 rendered trays."""
    from tests.fixtures.trained import make_trained

    return make_trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle: a fresh one for each file of tests, some of which change it in memory."""
    from edge_ad.bundle import open_bundle
    from tests.fixtures.tiny_bundle import make_tiny_bundle

    return open_bundle(make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgead"))


@pytest.fixture(scope="module")
def tiny_pipeline(tiny_bundle: Bundle) -> Iterator[Pipeline]:
    """A pipeline of FP32 in one thread on the tiny bundle."""
    from edge_ad.engines.pipeline import Pipeline

    with Pipeline(tiny_bundle, threads=1) as opened:
        yield opened


@pytest.fixture
def stderr_log() -> Iterator[None]:
    """The log as the command line sets it up."""
    from edge_ad.utils.logs import log_to_stderr

    with log_to_stderr():
        yield


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Starts real MQTT brokers, `mosquitto(users=..., tls=...)`, that end with the test; skips where there is none."""
    from tests.fixtures.mosquitto import Mosquitto, mosquitto_missing

    if reason := mosquitto_missing():
        pytest.skip(reason)
    brokers: list[Mosquitto] = []

    def start(**options: Any) -> Mosquitto:
        brokers.append(Mosquitto(tmp_path / f"broker-{len(brokers)}", **options))
        return brokers[-1]

    yield start
    for broker in brokers:
        broker.kill()
