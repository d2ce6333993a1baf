"""What a worker says of a NATS that it cannot use."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import FakeModel, Journalist, NatsServer, a, until, working

from ray_executor_worker.connection import Connection, UnavailableError
from ray_executor_worker.messages import Schema
from ray_executor_worker.settings import Secrets
from ray_executor_worker.tasks import cancel

ADVICE = {
    "login": "refuses the login: check",
    "refused": "is it up? Nobody listens there",
    "host": "cannot be looked up",
    "no tls": "has no TLS",
    "silent": "does not answer: check",
    "file": "NATS_CA: /nowhere is not a file",
}


@asynccontextmanager
async def kept(url: str, environ: dict[str, str]) -> AsyncIterator[Connection]:
    """A connection that is being kept."""
    connection = Connection((url,), Secrets(environ), "test")
    keeper = asyncio.create_task(connection.maintain())
    try:
        yield connection
    finally:
        await cancel([keeper])
        await connection.close()


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("which", ["login", "refused", "host", "no tls", "file", "silent"])
async def test_each_trouble_has_its_advice(
    which: str, nats_binary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = NatsServer(nats_binary, tmp_path, *(["--auth", "right"] if which == "login" else []))
    server.start()
    # It takes connections, and says nothing.
    silent = socket.create_server(("127.0.0.1", 0))
    url, environ = {
        "login": (server.url, {"NATS_TOKEN": "s3cret"}),
        "refused": (f"nats://127.0.0.1:{unused_port()}", {}),
        "host": ("nats://nowhere.invalid:4222", {}),
        "no tls": (server.url.replace("nats://", "tls://"), {}),
        "file": (server.url, {"NATS_CA": "/nowhere"}),
        "silent": (f"nats://127.0.0.1:{silent.getsockname()[1]}", {}),
    }[which]
    try:
        async with kept(url, environ) as connection:
            assert connection.trouble == "not connected yet"
            await until(lambda: ADVICE[which] in connection.trouble, wanted=True)
            text = connection.trouble
            assert ADVICE[which] in caplog.text
            await asyncio.sleep(1.5)
            # Said once, however often it is tried.
            assert caplog.text.count(text) == 1
            for other in set(ADVICE) - {which}:
                assert ADVICE[other] not in caplog.text
            assert "s3cret" not in caplog.text
    finally:
        silent.close()
        server.stop()


async def test_trouble_ends_with_the_connection_and_comes_back(nats_server: NatsServer) -> None:
    async with kept(nats_server.url, {}) as connection:
        await until(lambda: connection.trouble, wanted="")
        nats_server.stop()
        await until(lambda: ADVICE["refused"] in connection.trouble, wanted=True)
        with pytest.raises(UnavailableError, match="is it up"):
            await connection.request("$JS.API.INFO", b"")
        nats_server.start()
        await until(lambda: connection.trouble, wanted="")


async def test_what_is_not_allowed_is_said(nats_binary: Path, tmp_path: Path) -> None:
    config = tmp_path / "denied.conf"
    config.write_text(
        "authorization { users: [{user: u, password: p, "
        'permissions: {publish: {deny: "$JS.API.STREAM.INFO.>"}}}] }',
        encoding="utf-8",
    )
    server = NatsServer(nats_binary, tmp_path, "-c", str(config))
    server.start()
    try:
        async with kept(server.url, {"NATS_USER": "u", "NATS_PASSWORD": "p"}) as connection:
            await until(lambda: connection.trouble, wanted="")
            with pytest.raises(UnavailableError, match="NATS does not allow it to this user"):
                await connection.request("$JS.API.STREAM.INFO.X", b"")
    finally:
        server.stop()


async def test_a_nats_without_a_journal(
    nats_server: NatsServer, schema: Schema, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    journalist = Journalist(nats_server, schema)
    says = "the journal cannot be reached: stream DELIBERATIONS: stream not found; has `ray-exec"
    async with working(journalist) as worker:
        await until(lambda: says in caplog.text, wanted=True)
        problems = [(p.what, p.reason) for p in worker._facts().problems]  # type: ignore[attr-defined]
        assert problems[0][0] == "journal"
        assert "stream not found" in problems[0][1]
        await journalist.open()
        await journalist.submit("d1", [a("a1")], model.url)
        assert (await journalist.end("d1"))[0] == "completed"
        assert not worker._trouble
    assert caplog.text.count(says) == 1
    await journalist.close()


async def test_tls_is_spoken_where_it_is_asked_for(nats_binary: Path, tmp_path: Path) -> None:
    root = subprocess.run(["go", "env", "GOROOT"], check=True, capture_output=True, text=True)  # noqa: S607, ASYNC221
    generate = Path(root.stdout.strip()) / "src/crypto/tls/generate_cert.go"
    subprocess.run(  # noqa: ASYNC221
        ["go", "run", str(generate), "--host", "127.0.0.1", "--ca"],  # noqa: S607
        cwd=tmp_path,
        check=True,
    )
    config = tmp_path / "tls.conf"
    config.write_text(
        f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}\n'
        "allow_non_tls: true",
        encoding="utf-8",
    )
    server = NatsServer(nats_binary, tmp_path, "-c", str(config))
    server.start()
    try:
        async with kept(server.url, {"NATS_CA": f"{tmp_path}/cert.pem"}) as connection:
            await until(lambda: connection.trouble, wanted="")
            transport: Any = connection.client._transport
            assert transport._io_writer.get_extra_info("ssl_object") is not None
        url = server.url.replace("nats://", "tls://")
        async with kept(url, {}) as connection:
            says = "shows a certificate that is not accepted: check NATS_CA"
            await until(lambda: says in connection.trouble, wanted=True)
        async with kept(server.url, {}) as connection:
            await until(lambda: connection.trouble, wanted="")
    finally:
        server.stop()
