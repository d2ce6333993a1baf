"""What the tests share: a real server on a real journal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from rig import Rig

from ray_executor_client import Client


@pytest.fixture(scope="session", autouse=True)
def main_loop() -> Iterator[None]:
    """The main thread's loop, closed at the end.

    pytest-asyncio asks for it around each test. Where there is none, Python before
    3.14 creates one, which nobody closes: its ResourceWarning fails the run.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


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
