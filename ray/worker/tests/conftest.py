"""What the tests share: the payloads, a real NATS, a scripted model server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from harness import MODULE, FakeModel, Journalist, NatsServer

from ray_executor_worker.messages import Schema


@pytest.fixture(scope="session")
def schema_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The payloads as they are shipped, in a file."""
    path = tmp_path_factory.mktemp("schema") / "descriptors.binpb"
    subprocess.run(
        ["go", "run", "./ray/worker/describe", str(path)],  # noqa: S607 - the toolchain's go
        cwd=MODULE,
        check=True,
    )
    return path


@pytest.fixture(scope="session")
def schema(schema_file: Path) -> Schema:
    """The payloads as they are shipped."""
    return Schema(schema_file.read_bytes())


@pytest.fixture(scope="session")
def nats_binary() -> Path:
    """The nats-server of go.mod; a missing one fails the tests."""
    path = Path(os.environ.get("NATS_SERVER") or MODULE / ".tools" / "nats-server")
    if not path.is_file():
        pytest.fail(
            f"no nats-server at {path}: set NATS_SERVER, or build it with\n"
            "  go build -o .tools/nats-server github.com/nats-io/nats-server/v2",
            pytrace=False,
        )
    return path


@pytest.fixture
def nats_server(nats_binary: Path, tmp_path: Path) -> Iterator[NatsServer]:
    """A NATS of the test's own."""
    server = NatsServer(nats_binary, tmp_path)
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def journalist(nats_server: NatsServer, schema: Schema) -> AsyncIterator[Journalist]:
    """Submits to a fresh journal, and reads what became of it."""
    journalist = Journalist(nats_server, schema)
    await journalist.open()
    yield journalist
    await journalist.close()


@pytest_asyncio.fixture
async def model() -> AsyncIterator[FakeModel]:
    """A model server that does what the model's name says."""
    model = FakeModel()
    await model.start()
    yield model
    await model.stop()
