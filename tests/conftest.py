"""Fixtures that are too dear to make more than once a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.fixtures.trained import Trained

# Time never fails a test: a loaded machine is slow, not wrong.
settings.register_profile("edge-ad", deadline=None)
settings.load_profile("edge-ad")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A bundle of the tiny preset, really trained (two steps a network) on 24 rendered trays."""
    from tests.fixtures.trained import make_trained

    return make_trained(tmp_path_factory.mktemp("trained"))
