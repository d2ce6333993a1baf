"""The test's side of the world: NATS, callers, models."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Awaitable, Callable, Optional

import nats
from aiohttp import web
from google.protobuf import json_format
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    ObjectStoreConfig,
    StorageType,
    StreamConfig,
)

from ray_executor_worker.journal import RESULTS_BUCKET, STREAM
from ray_executor_worker.messages import (
    AGENT,
    COMPLETED,
    FAILED,
    PACKAGE,
    REQUESTED,
    STARTED,
    Result,
    Schema,
)
from ray_executor_worker.metrics import Metrics
from ray_executor_worker.settings import Secrets, Settings
from ray_executor_worker.worker import Worker

MODULE = Path(__file__).resolve().parents[3]
# Longer than anything takes that works.
PATIENCE_S = 20.0


class NatsServer:
    """A nats-server process with a store that survives its restarts."""

    def __init__(self, binary: Path, directory: Path, *flags: str) -> None:
        self._binary = binary
        self._flags = flags
        self._directory = directory
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._port = -1

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        ports = self._directory / "ports"
        ports.mkdir(exist_ok=True)
        for old in ports.iterdir():
            old.unlink()
        with (self._directory / "nats.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self._binary), "-a", "127.0.0.1", "-p", str(self._port)),
                    *("-js", "-sd", str(self._directory / "store")),
                    *("--ports_file_dir", str(ports)),
                    *self._flags,
                ],
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            with contextlib.suppress(ValueError, StopIteration, KeyError, OSError):
                ports_file = json.loads(next(ports.iterdir()).read_text(encoding="utf-8"))
                self._port = int(ports_file["nats"][0].rpartition(":")[2])
                return
            time.sleep(0.01)
        message = f"nats-server did not start; see {self._directory / 'nats.log'}"
        raise AssertionError(message)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self.thaw()
            self._process.wait(PATIENCE_S)
            self._process = None

    def freeze(self) -> None:
        """Stops answering while connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@dataclass(frozen=True)
class Entry:
    """One message of a deliberation's story."""

    subject: str
    sequence: int
    headers: dict[str, str]
    data: bytes


class Journalist:
    """Plays submit, cancel and keeper, and reads the journal."""

    def __init__(self, server: NatsServer, schema: Schema, prefix: str = "") -> None:
        self.server = server
        self.schema = schema
        self.prefix = prefix
        self.stream, self.results = prefix + STREAM, prefix + RESULTS_BUCKET
        self.nc: Client

    async def open(self, ack_wait_s: float = 60.0, pool: str = "default") -> None:
        self.nc = await nats.connect(self.server.url, reconnect_time_wait=1)
        js = self.nc.jetstream()
        await js.add_stream(
            StreamConfig(
                name=self.stream,
                subjects=["deliberation.>"],
                discard=DiscardPolicy.NEW,
                storage=StorageType.FILE,
                allow_direct=True,
                max_msg_size=1024 * 1024,
            )
        )
        await js.create_object_store(self.results, ObjectStoreConfig())
        await self.add_pool(pool, ack_wait_s)

    async def add_pool(self, pool: str, ack_wait_s: float = 60.0) -> None:
        await self.nc.jetstream().add_consumer(
            self.stream,
            ConsumerConfig(
                durable_name=f"pool-{pool}",
                filter_subject=f"deliberation.requested.{pool}.*",
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ack_wait_s,
                max_ack_pending=1000,
            ),
        )

    async def close(self) -> None:
        await self.nc.close()

    def request(self, id_: str, agents: list[dict[str, Any]], url: str, **more: Any) -> Any:
        """A DeliberationRequested with its defaults resolved."""
        message: Any = self.schema._classes[REQUESTED](
            deliberation_id=id_,
            task_id=f"task-{id_}",
            pool="default",
            timeout_seconds=more.pop("timeout_seconds", 30),
            max_retries=more.pop("max_retries", 0),
            vllm_url=url,
            vllm_model=more.pop("vllm_model", "ok"),
        )
        message.request.task_id = f"task-{id_}"
        message.request.task_description = more.pop("task_description", "build it")
        message.request.role = "DEV"
        for key, value in more.pop("metadata", {}).items():
            message.request.constraints.metadata[key] = value
        set_sampling(message.request, more.pop("sampling", {}))
        for kind, spec in more.pop("response_format", {}).items():
            setattr(message.request.response_format, kind, spec)
        if "strategy" in more:
            json_format.ParseDict(more.pop("strategy"), message.request.strategy)
        for agent in agents:
            given = dict(agent)
            sampling = given.pop("sampling", {})
            set_sampling(message.request.agents.add(**given), sampling)
        assert not more
        if message.request.strategy.WhichOneof("kind") not in (None, "independent"):
            # As the door writes it, for workers from before strategies to refuse.
            message.strategy_request.CopyFrom(message.request)
            message.ClearField("request")
        return message

    async def submit(self, id_: str, agents: list[dict[str, Any]], url: str, **more: Any) -> int:
        return await self.append(
            f"deliberation.requested.default.{id_}", self.request(id_, agents, url, **more)
        )

    async def append(self, subject: str, message: Any, **headers: str) -> int:
        """Writes to the journal as anyone may."""
        id_ = subject.rpartition(".")[2]
        ack = await self.nc.jetstream().publish(
            subject,
            message if isinstance(message, bytes) else message.SerializeToString(),
            headers={
                "ce-specversion": "1.0",
                "ce-id": f"{id_}.test",
                "ce-source": "/test",
                "ce-type": "" if isinstance(message, bytes) else message.DESCRIPTOR.full_name,
                "ce-subject": id_,
                "content-type": "application/protobuf",
                "ce-traceparent": f"00-{'1' * 32}-{'2' * 16}-01",
                **headers,
            },
        )
        return ack.seq

    async def start(self, id_: str, attempt: int, replica: str = "another") -> int:
        message = self.schema._classes[STARTED](
            deliberation_id=id_, attempt=attempt, replica=replica
        )
        return await self.append(f"deliberation.started.default.{id_}", message)

    async def agent(self, id_: str, index: int, result: Result) -> int:
        requested = type("Requested", (), {"deliberation_id": id_, "task_id": ""})()
        return await self.append(
            f"deliberation.agent.{index}.{id_}", self.schema.agent(requested, index, result)
        )

    async def cancel(self, id_: str) -> int:
        return await self.append(f"deliberation.done.cancelled.{id_}", b"")

    async def story(self, id_: str) -> list[Entry]:
        """All that the journal has on it, in order."""
        info = await self.nc.jetstream().stream_info(self.stream, subjects_filter=f"*.*.*.{id_}")
        entries: list[Entry] = []
        for subject in info.state.subjects or {}:
            sequence = 0
            while True:
                query = {"seq": sequence + 1, "next_by_subj": subject}
                reply = await self.nc.request(
                    f"$JS.API.DIRECT.GET.{self.stream}", json.dumps(query).encode(), timeout=5
                )
                headers = dict(reply.headers or {})
                if "Nats-Sequence" not in headers:
                    break
                sequence = int(headers["Nats-Sequence"])
                entries.append(Entry(subject, sequence, headers, reply.data))
        return sorted(entries, key=lambda entry: entry.sequence)

    async def kinds(self, id_: str) -> list[str]:
        """The story's subjects without the id."""
        return [entry.subject.rpartition(".")[0][13:] for entry in await self.story(id_)]

    async def end(self, id_: str) -> tuple[str, Any]:
        """Waits for the end: how, and its message."""
        entry = await self.wait_for(f"deliberation.done.*.{id_}")
        how = entry.subject.split(".")[2]
        name = {"completed": COMPLETED, "failed": FAILED}.get(how)
        return how, self.schema.parse(name, entry.data) if name else None

    async def wait_for(self, subject: str, patience_s: float = PATIENCE_S) -> Entry:
        """Waits until the journal has a message there."""
        subscription = await self.nc.jetstream().subscribe(subject, ordered_consumer=True)
        try:
            message = await subscription.next_msg(timeout=patience_s)
        finally:
            await subscription.unsubscribe()
        sequence = message.metadata.sequence.stream
        return Entry(message.subject, sequence, dict(message.headers or {}), message.data)

    async def unsettled(self, pool: str = "default") -> int:
        """Work that is queued, held, or to be delivered again."""
        info = await self.nc.jetstream().consumer_info(self.stream, f"pool-{pool}")
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def settled(self) -> None:
        await until(self.unsettled, 0)

    def read_agent(self, entry: Entry) -> Any:
        return self.schema.parse(AGENT, entry.data)


async def until(probe: Callable[[], Any], wanted: Any) -> None:
    """Waits until the probe, which may be async, tells what is wanted."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = probe()
        if asyncio.iscoroutine(found):
            found = await found
        if found == wanted:
            return
        assert time.monotonic() < deadline, f"{found!r} is not {wanted!r}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def stretches() -> AsyncIterator[Callable[[], float]]:
    """Tells the longest time of its own, in seconds, that the event loop gave to one thing.

    The processor's time, not the clock's: others work on this machine, too.
    """
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            last = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - last)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        yield lambda: longest
    finally:
        ticking.cancel()


def set_sampling(message: Any, given: dict[str, Any]) -> None:
    """Sets the fields of `message.sampling`."""
    for name, value in given.items():
        if name == "stop":
            message.sampling.stop.extend(value)
        elif name == "extra":
            message.sampling.extra.update(value)
        else:
            setattr(message.sampling, name, value)


def a(id_: str, model: str = "", **more: Any) -> dict[str, Any]:
    """An agent of a request."""
    return {"id": id_, "model": model, **more}


class FakeModel:
    """An OpenAI-compatible server; the model's name says what it does.

    `ok`, `pause` (for a moment), `slow` and `wait-…` (until it is let go), `empty`,
    `long`, `half`, `big`, `zipped`, `halts` (in the body), `404`, `500`, `500x1` (once;
    `500x1-2` and the like count apart),
    `string-error`, `broken` (cut off in the body), `cut` (no answer), `full` (503 as
    vLLM's own admission; `fullx1` once), `says TEXT` and `slow TEXT` (`TEXT` is the
    proposal; `slow` once it is let go).
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.open = 0
        self.most = 0
        self.aborted = 0
        self.let_go = asyncio.Event()
        self.url = ""
        self._runner: Optional[web.AppRunner] = None

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/elsewhere", self._chat)
        # handler_cancellation: a cut connection is noticed as vLLM notices it.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        assert self._runner is not None
        self.let_go.set()
        await self._runner.cleanup()

    def asked(self) -> list[str]:
        """The agents that were asked, by the last line of the default message."""
        messages = [request["messages"][1]["content"] for request in self.requests]
        return [message.rpartition("You are ")[2].partition(";")[0] for message in messages]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.requests.append(asked)
        self.headers.append(dict(request.headers))
        name: str = asked["model"]
        self.calls[name] += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            return await self._answer(request, name)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.open -= 1

    async def _answer(self, request: web.Request, name: str) -> web.StreamResponse:
        await self._wait(name)
        if name == "moved":
            raise web.HTTPTemporaryRedirect("/elsewhere")
        if name == "string-error":
            return web.json_response({"error": "Unauthorized"}, status=401)
        if name.startswith("full") and self.calls[name] <= _times(name):
            refusal = {"message": "The server is overloaded", "type": "Service Unavailable"}
            return web.json_response({"error": refusal}, status=503)
        failing, _, times = name.partition("-")[0].partition("x")
        if failing.isdigit() and times.isdigit() and self.calls[name] > int(times):
            return web.json_response(completion("at last"))
        if name[:3].isdigit():
            headers = {"Retry-After": "0"} if name.startswith("500") else {}
            error = {"error": {"message": f"no {name}"}}
            return web.json_response(error, status=int(name[:3]), headers=headers)
        if name == "zipped":
            bomb = gzip.compress(b" " * 50_000_000)
            return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})
        if name in {"broken", "cut", "halts"}:
            return await self._break_off(request, name)
        if name.startswith(("says ", "slow ")):
            return web.json_response(completion(name[5:]))
        return web.json_response(_ANSWERS.get(name) or completion(f"proposal of {name}"))

    async def _wait(self, name: str) -> None:
        if name.startswith(("slow", "wait-")):
            await self.let_go.wait()
        if name == "pause":
            await asyncio.sleep(0.02)

    async def _break_off(self, request: web.Request, name: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "300000"})
        if name == "halts":
            await response.prepare(request)
            await response.write(b"x" * 200_000)
            await self.let_go.wait()
        if name == "broken":
            await response.prepare(request)
            await response.write(b'{"choices": ')
        assert request.transport is not None
        request.transport.abort()
        return response


def _times(name: str) -> int:
    return int(name.partition("-")[0].partition("x")[2] or 1_000)


def completion(content: Optional[str], **message: str) -> dict[str, Any]:
    """A chat completion as vLLM answers it."""
    return {
        "choices": [
            {
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


_ANSWERS: dict[str, dict[str, Any]] = {
    "empty": completion("  \n"),
    "long": completion("x" * 300_000),
    "big": completion("x" * (1536 * 1024)),
    "half": completion("x" * (600 * 1024)),
    "reasoned": completion("yes", reasoning_content="because"),
    "nonsense": {"choices": []},
    "json": completion('{"n": 1}'),
}


@contextlib.asynccontextmanager
async def working(  # noqa: PLR0913 - what a test puts in
    journalist: Journalist,
    replica: str = "one",
    *,
    slots: int = 100,
    environ: Optional[dict[str, str]] = None,
    model_hosts: tuple[str, ...] = ("127.0.0.1",),
    metrics: Optional[Metrics] = None,
) -> AsyncIterator[Worker]:
    """A worker that pulls from the journal."""
    settings = Settings(
        nats_urls=(journalist.server.url,),
        pools={"default": slots},
        model_hosts=model_hosts,
        cluster="test",
        nats_prefix=journalist.prefix,
    )
    worker = Worker(settings, Secrets(environ or {}), journalist.schema, replica, metrics=metrics)
    worker.start()
    try:
        yield worker
        worker.check()
    finally:
        await worker.stop()


def intercept(
    worker: Worker,
    *,
    before: Callable[[str], Awaitable[None]] | None = None,
    after: Callable[[str], Awaitable[None]] | None = None,
) -> None:
    """Puts something before or after the worker's requests, by their subject."""
    connection = worker._connection
    request = connection.request

    async def intercepted(
        subject: str, data: bytes, headers: Optional[dict[str, str]] = None
    ) -> Msg:
        if before is not None:
            await before(subject)
        reply = await request(subject, data, headers)
        if after is not None:
            await after(subject)
        return reply

    connection.request = intercepted  # type: ignore[method-assign]


__all__ = [
    "MODULE",
    "PACKAGE",
    "Entry",
    "FakeModel",
    "Journalist",
    "NatsServer",
    "a",
    "completion",
    "intercept",
    "stretches",
    "until",
    "working",
]
