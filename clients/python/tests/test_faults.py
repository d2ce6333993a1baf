"""What the clients do when a server, or what is in between, does not do well."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
import time
from typing import Any, Callable

import pytest
from rig import Rig
from scripted import END, Answer, Scripted, Silence, Step, event, frame, refused, reply

from ray_executor_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    LimitReached,
    PermissionDenied,
    RayExecutorError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    messages,
)

RECEIPT = reply(messages.ExecuteDeliberationResponse(deliberation_id="d", status="submitted"))
STATUS = reply(messages.GetStatusResponse(status="healthy"))
AWAY = refused(
    503, "unavailable", "unavailable", message="NATS is away", field="NATS", retry_after="0"
)

Run = Callable[..., Any]


def blocking(url: str, do: str, *args: object, options: dict[str, Any], **named: object) -> Any:
    with Client(url, **options) as client:
        got = getattr(client, do)(*args, **named)
        return [*got] if do in ("watch", "list") else got


def awaited(url: str, do: str, *args: object, options: dict[str, Any], **named: object) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, **options) as client:
            got = getattr(client, do)(*args, **named)
            return [one async for one in got] if do in ("watch", "list") else await got

    return asyncio.run(run())


@pytest.fixture(params=[blocking, awaited])
def run(request: pytest.FixtureRequest) -> Run:
    """Makes a client, makes one call, closes the client."""
    made = request.param

    def call(url: str, do: str, *args: object, **named: Any) -> Any:
        options = {
            name: named.pop(name)
            for name in ("token", "retries", "max_response_bytes", "headers")
            if name in named
        }
        return made(url, do, *args, options=options, **named)

    return call


def answered(run: Run, *steps: Step, do: str = "stats", **named: Any) -> Any:
    with Scripted(*steps) as server:
        return run(server.url, do, **named)


def test_a_submit_is_repeated_with_one_id(run: Run) -> None:
    with Scripted(
        AWAY, Answer(whole=False), Answer(502, body=b"<html>Bad gateway</html>"), RECEIPT
    ) as server:
        run(server.url, "submit", "Decide.", agents=["a"])
        bodies = {sent.body for sent in server.sent}
        assert len(server.sent) == 4
        assert len(bodies) == 1
        assert messages.ExecuteDeliberationRequest.FromString(bodies.pop()).deliberation_id


def test_a_whole_request_gets_an_id_and_stays_as_it_was(run: Run) -> None:
    request = messages.ExecuteDeliberationRequest(task_id="t")
    with Scripted(AWAY, RECEIPT) as server:
        run(server.url, "submit_request", request)
        assert len({sent.body for sent in server.sent}) == 1
        assert messages.ExecuteDeliberationRequest.FromString(server.sent[0].body).deliberation_id
    assert request == messages.ExecuteDeliberationRequest(task_id="t")


def test_retry_after_is_honoured(run: Run) -> None:
    begun = time.monotonic()
    busy = refused(429, "resource_exhausted", "limit_reached", retry_after="1")
    assert answered(run, busy, STATUS).status == "healthy"
    assert time.monotonic() - begun >= 1


def test_a_retry_after_beyond_the_deadline_is_an_error_at_once(run: Run) -> None:
    busy = refused(
        429, "resource_exhausted", "limit_reached", message="80 % full", retry_after="600"
    )
    begun = time.monotonic()
    with pytest.raises(LimitReached, match="80 % full") as raised:
        answered(run, busy, timeout=30)
    assert raised.value.retry_after == 600
    assert time.monotonic() - begun < 20


def test_retries_end(run: Run) -> None:
    with Scripted(AWAY) as server:
        with pytest.raises(Unavailable, match="NATS is away") as raised:
            run(server.url, "submit", "Decide.", agents=["a"], deliberation_id="mine", retries=2)
        assert (raised.value.field, raised.value.deliberation_id) == ("NATS", "mine")
        assert len(server.sent) == 3


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (refused(400, "invalid_argument", "invalid_argument", field="role"), InvalidArgument),
        (refused(401, "unauthenticated", "unauthenticated"), Unauthenticated),
        (refused(403, "permission_denied", "permission_denied"), PermissionDenied),
        (refused(429, "resource_exhausted", "too_large"), TooLarge),
        (refused(500, "internal", "internal"), InternalError),
        (
            Answer(429, (("content-type", "application/json"),), b'{"code": "resource_exhausted"}'),
            TooLarge,
        ),
        (Answer(400, body=b'{"code": "unheard_of", "message": "new"}'), InternalError),
        (Answer(400, body=b"{" * 100_000), InvalidArgument),
        (Answer(401), Unauthenticated),
        (Answer(404, body=b"<html>"), Unimplemented),
        (Answer(302, (("location", "http://127.0.0.1:9/"),)), InternalError),
        (Answer(200, body=b"<html>a portal</html>"), InternalError),
    ],
)
def test_what_no_retry_mends_is_asked_once(
    run: Run, step: Step, kind: type[RayExecutorError]
) -> None:
    with Scripted(step) as server:
        with pytest.raises(kind) as raised:
            run(server.url, "stats")
        assert type(raised.value) is kind
        assert str(raised.value)
        assert len(server.sent) == 1


def test_errors_can_be_copied() -> None:
    error = LimitReached("full", field="pool", deliberation_id="d", retry_after=2.5)
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(copied) is LimitReached
    assert (str(copied), copied.field, copied.retry_after) == ("full", "pool", 2.5)


def test_a_server_that_is_silent_ends_with_the_deadline(run: Run) -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded) as raised:
        answered(run, Silence(), do="status", deliberation_id="d", timeout=0.5)
    assert raised.value.deliberation_id == "d"
    assert time.monotonic() - begun < 20


def test_a_reply_that_trickles_ends_with_the_deadline(run: Run) -> None:
    begun = time.monotonic()
    head = b"HTTP/1.1 200 .\r\ncontent-length: 5\r\n\r\nab"
    with pytest.raises(DeadlineExceeded):
        answered(run, Silence(head), timeout=0.5)
    assert time.monotonic() - begun < 20


def test_nobody_listens(run: Run) -> None:
    with socket.socket() as bound:  # not listening
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="cannot be reached"):
            run(f"http://127.0.0.1:{bound.getsockname()[1]}", "stats", retries=1)


def test_a_reply_above_the_limit(run: Run) -> None:
    with pytest.raises(TooLarge) as raised:
        answered(run, Answer(body=b"x" * 2000), max_response_bytes=1000)
    assert raised.value.field == "max_response_bytes"
    with pytest.raises(TooLarge):
        answered(run, Answer(500, body=b"x" * 2000), max_response_bytes=1000)
    with pytest.raises(TooLarge):
        answered(
            run,
            Answer(body=frame(b"x" * 2000)),
            do="watch",
            deliberation_id="d",
            max_response_bytes=1000,
        )


def watched(run: Run, *steps: Step, **named: Any) -> tuple[list[int], list[int]]:
    """The sequences that a watch came to, and those that it asked to resume behind."""
    with Scripted(*steps) as server:
        events = run(server.url, "watch", deliberation_id="d", **named)
        asked = [
            messages.WatchDeliberationRequest.FromString(sent.body[5:]) for sent in server.sent
        ]
    return [one.sequence for one in events], [one.after_sequence for one in asked]


def test_a_watch_resumes_behind_the_last_event(run: Run) -> None:
    error = (
        b'{"error": {"code": "unavailable", "message": "the server stops"},'
        b' "metadata": {"Retry-After": ["0"]}}'
    )
    steps = [
        Answer(body=event(3) + event(7), whole=False),
        Answer(body=event(9) + event(10)[:6], whole=False),  # cut within an event
        AWAY,
        Answer(body=event(10) + frame(error, 2)),
        Answer(body=b""),
        Answer(body=event(12, "completed") + END),
    ]
    assert watched(run, *steps) == ([3, 7, 9, 10, 12], [0, 7, 9, 9, 10, 10])


def test_a_watch_that_gets_nowhere_ends(run: Run) -> None:
    with Scripted(Answer(body=b"")) as server:
        with pytest.raises(Unavailable, match="cut") as raised:
            run(server.url, "watch", deliberation_id="d", retries=1)
        assert raised.value.deliberation_id == "d"
        assert len(server.sent) == 4


def test_a_quiet_watch_keeps_its_deadline(run: Run) -> None:
    head = b"HTTP/1.1 200 .\r\ntransfer-encoding: chunked\r\n\r\n"
    one = event(1)
    chunk = f"{len(one):x}\r\n".encode() + one + b"\r\n"
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        answered(
            run, Silence(head + chunk), Silence(head), do="watch", deliberation_id="d", timeout=1
        )
    assert 1 <= time.monotonic() - begun < 20


def test_a_compressed_frame_is_refused(run: Run) -> None:
    with pytest.raises(InternalError, match="compressed"):
        watched(run, Answer(body=frame(b"x", 1)))


def test_a_wait_without_streams_asks_again(run: Run) -> None:
    running = reply(messages.GetDeliberationStatusResponse(status="running"))
    ended = reply(messages.GetDeliberationStatusResponse(status="completed"))
    no_watch = refused(501, "unimplemented", "")
    got = answered(run, no_watch, running, ended, do="wait", deliberation_id="d", timeout=20)
    assert got.status == "completed"


def test_the_token(run: Run) -> None:
    with Scripted(STATUS) as server:
        run(server.url, "stats", token="secret")
        assert server.sent[0].headers["authorization"] == "Bearer secret"
        run(server.url, "stats")
        assert "authorization" not in server.sent[1].headers


def test_a_token_that_is_renewed(run: Run) -> None:
    tokens = iter(["checked", "old", "new"])
    with Scripted(AWAY, STATUS) as server:
        run(server.url, "stats", token=lambda: next(tokens))
        assert [sent.headers["authorization"] for sent in server.sent] == [
            "Bearer old",
            "Bearer new",
        ]


def test_headers(run: Run) -> None:
    with Scripted(RECEIPT) as server:
        run(
            server.url + "/behind/a/path/",
            "submit",
            "D.",
            agents=["a"],
            traceparent="00-1",
            headers={"X-Tenant": "t"},
        )
        (sent,) = server.sent
        assert sent.path == "/behind/a/path/ray_executor.v1.RayExecutorService/ExecuteDeliberation"
        assert (sent.headers["traceparent"], sent.headers["x-tenant"]) == ("00-1", "t")
        assert sent.headers["user-agent"].startswith("ray-executor-client/")
        assert sent.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("token", ["a b", "a\nb", "ä"])
def test_an_unusable_token_is_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="printable") as raised:
        Client("http://localhost", token=token)
    assert token not in str(raised.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://a", "http://", "http://u:p@a", "http://a?b", "http://a#b"]
)
def test_an_unusable_url(kind: type[Client], url: str) -> None:
    with pytest.raises(ValueError, match="url must"):
        kind(url)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": -1}, {"retries": -1}, {"max_response_bytes": 0}]
)
def test_unusable_options(kind: type[Client], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        kind("http://localhost", **options)


def test_a_client_shows_no_token() -> None:
    with Client("http://localhost:1", token="secret") as client:
        assert repr(client) == "Client('http://localhost:1')"


def test_nothing_is_left_behind(rig: Rig, run: Run) -> None:
    before = set(threading.enumerate())
    run(rig.url, "stats")
    assert set(threading.enumerate()) == before


def test_a_watch_that_is_left_closes_its_stream() -> None:
    with Scripted(Answer(body=event(1)), STATUS) as server, Client(server.url) as client:
        for one in client.watch("d"):
            assert one.sequence == 1
            break
        assert client.stats().status == "healthy"


async def test_a_watch_that_is_cancelled_closes_its_stream() -> None:
    head = b"HTTP/1.1 200 .\r\ntransfer-encoding: chunked\r\n\r\n"
    with Scripted(Silence(head)) as server:
        async with AsyncClient(server.url) as client:
            watch = client.watch("d")
            task = asyncio.ensure_future(watch.__anext__())
            await asyncio.to_thread(server.came.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(StopAsyncIteration):
                await watch.__anext__()


def test_a_restarted_server(tmp_path_factory: pytest.TempPathFactory, run: Run) -> None:
    """A wait and a watch survive the server's end and its next start."""
    rig = Rig(tmp_path_factory.mktemp("restarted"))
    try:
        rig.start()
        with Client(rig.url) as client:
            one = client.submit("hold it", agents=["a"])
        ended: list[Any] = []
        threads = [
            threading.Thread(
                target=lambda do=do: ended.append(run(rig.url, do, one.id, timeout=60))
            )
            for do in ("wait", "watch")
        ]
        for thread in threads:
            thread.start()
        rig.stop("serve", kill=True)
        rig.start_server()
        with Client(rig.url) as client:
            client.cancel(one.id)
        for thread in threads:
            thread.join(60)
        states = sorted(got[-1].status if isinstance(got, list) else got.status for got in ended)
        assert states == ["cancelled", "cancelled"]
    finally:
        rig.close()
