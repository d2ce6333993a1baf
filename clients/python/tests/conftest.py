"""What the tests share: a real server on a real journal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig import Rig

from ray_executor_client import Client


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A server that all tests share, and that none stops."""
    made = Rig(tmp_path_factory.mktemp("rig"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def client(rig: Rig) -> Iterator[Client]:
    """A blocking client of it."""
    with Client(rig.url) as made:
        yield made
