"""The call of a model, against a server that misbehaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from harness import FakeModel, until
from yarl import URL

from ray_executor_worker.answers import Room
from ray_executor_worker.chat import Chat
from ray_executor_worker.completion import (
    Answer,
    own_admission,
    read_error,
)
from ray_executor_worker.endpoint import CallError, Endpoint
from ray_executor_worker.hosts import AllowedHosts
from ray_executor_worker.model import ModelClient, Question
from ray_executor_worker.prompt import Text
from ray_executor_worker.retry import Backoff, Progress, Retrier

KEY = "sk-secret"


@pytest_asyncio.fixture
async def client() -> AsyncIterator[ModelClient]:
    client = ModelClient(
        AllowedHosts(["127.0.0.1"]),
        KEY,
        retrier=Retrier(Backoff(base=0.0)),
        max_body_bytes=1024 * 1024,
    )
    yield client
    await client.close()


def said(model: str, text: str) -> Chat:
    return Chat(model, [("user", Text(text, {}))])


async def ask(  # noqa: PLR0913
    client: ModelClient,
    url: str,
    model: str,
    retries: int = 0,
    progress: Progress | None = None,
    *,
    large: bool = False,
    room: Room | None = None,
) -> Answer:
    deadline = asyncio.get_running_loop().time() + 20
    question = Question(
        ((url, model),),
        lambda name: said(name, "x"),
        large,
        retries,
        deadline,
        room or Room(asyncio.Semaphore()),
    )
    return await client.ask(question, progress or Progress())


async def test_an_answer(client: ModelClient, model: FakeModel) -> None:
    answer = await ask(client, model.url + "/", "reasoned")
    assert answer == Answer(
        content="yes",
        reasoning="because",
        metadata={
            "finish_reason": "stop",
            "prompt_tokens": "3",
            "completion_tokens": "4",
            "total_tokens": "7",
        },
    )
    assert model.requests[0] == {
        "model": "reasoned",
        "messages": [{"role": "user", "content": "x"}],
    }
    assert model.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("name", "error_type", "text", "calls"),
    [
        ("404", "http_status", "no 404 (HTTP 404)", 1),
        ("500", "http_status", "no 500 (HTTP 500)", 3),
        ("429", "http_status", "no 429 (HTTP 429)", 3),
        ("string-error", "http_status", "Unauthorized (HTTP 401)", 1),
        ("moved", "http_status", "redirects are not followed (HTTP 307)", 1),
        ("empty", "empty_content", "the model answered with empty content", 1),
        ("nonsense", "bad_response", "not a chat completion", 1),
        ("big", "too_large", "the answer exceeds 1048576 bytes", 1),
        ("broken", "connection", "", 3),
        ("cut", "connection", "", 3),
    ],
)
async def test_failures(  # noqa: PLR0913, PLR0917
    client: ModelClient, model: FakeModel, name: str, error_type: str, text: str, calls: int
) -> None:
    with pytest.raises(CallError) as failure:
        await ask(client, model.url, name, retries=2)
    assert failure.value.error_type == error_type
    assert failure.value.text.startswith(text)
    assert failure.value.text
    assert model.calls[name] == calls


async def test_a_large_body_is_sent_as_it_is_made(client: ModelClient, model: FakeModel) -> None:
    await ask(client, model.url, "ok", large=True)
    await ask(client, model.url, "500x1", large=True, retries=1)
    assert model.requests[0] == {"model": "ok", "messages": [{"role": "user", "content": "x"}]}
    assert model.headers[0]["Content-Length"] == str(len(said("ok", "x").whole()))
    assert model.headers[0]["Content-Type"] == "application/json"
    assert model.requests[1] == model.requests[2]


@pytest.mark.parametrize(
    ("body", "headers", "overloaded"),
    [
        (b'{"error": {"message": "m", "type": "Service Unavailable", "code": 503}}', {}, True),
        (b'{"error": {"message": "m", "type": "ServiceUnavailableError"}}', {}, True),
        (b'{"error": {"message": "m", "type": "overloaded_error"}}', {}, True),
        (b'{"error": {"message": "m", "type": "rate"}}', {"Retry-After": "1"}, True),
        (b'{"error": {"message": "m", "type": "rate"}}', {}, False),
        (
            b'{"error": {"message": "m", "type": "InternalServerError"}}',
            {"Retry-After": "1"},
            False,
        ),
        (b'{"error": {"message": "m"}}', {"Retry-After": "1"}, False),
        (b'{"error": "Service Unavailable"}', {}, False),
        (b"<html>503 Service Unavailable</html>", {"Retry-After": "1"}, False),
        (b"no healthy upstream", {}, False),
        (b"[" * 60_000, {}, False),
    ],
)
def test_whose_503_it_is(body: bytes, headers: dict[str, str], overloaded: bool) -> None:  # noqa: FBT001
    assert own_admission(read_error(body), headers) is overloaded


async def test_a_retry_may_mend_it(client: ModelClient, model: FakeModel) -> None:
    progress = Progress()
    answer = await ask(client, model.url, "500x1", retries=3, progress=progress)
    assert answer.content == "at last"
    assert progress.attempts == 2


async def test_a_long_answer_waits_for_room(client: ModelClient, model: FakeModel) -> None:
    gate = asyncio.Semaphore(1)
    holding, room = Room(gate), Room(gate)
    await holding.take()
    waiting = asyncio.create_task(ask(client, model.url, "long", room=room))
    await until(lambda: model.calls["long"], 1)
    assert (await ask(client, model.url, "ok", room=Room(gate))).content == "proposal of ok"
    assert not waiting.done()
    holding.release()
    assert len((await waiting).content) == 300_000
    assert gate.locked()  # it is held until it is recorded
    room.release()
    with pytest.raises(CallError, match="exceeds"):
        await ask(client, model.url, "big", room=room)
    assert not gate.locked()


async def test_a_long_answer_that_does_not_come_gives_its_room_back(
    client: ModelClient, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_executor_worker.model._LONG_S", 0.1)
    room = Room(asyncio.Semaphore(1))
    with pytest.raises(CallError, match="TimeoutError") as failure:
        await ask(client, model.url, "halts", room=room)
    assert failure.value.error_type == "connection"
    assert not room._gate.locked()


async def test_what_a_server_packs_is_not_unpacked(client: ModelClient, model: FakeModel) -> None:
    with pytest.raises(CallError) as failure:
        await ask(client, model.url, "zipped")
    assert failure.value.error_type == "bad_response"
    assert model.headers[0]["Accept-Encoding"] == "identity"


async def test_nobody_listens(client: ModelClient) -> None:
    progress = Progress()
    with pytest.raises(CallError) as failure:
        await ask(client, "http://127.0.0.1:1", "ok", progress=progress)
    assert failure.value.error_type == "connection"
    assert failure.value.text == "connection refused (127.0.0.1:1)"
    assert progress.attempts == 1


async def test_cancelling_closes_the_connection(client: ModelClient, model: FakeModel) -> None:
    task = asyncio.create_task(ask(client, model.url, "slow"))
    await until(lambda: model.open, 1)
    task.cancel()
    await until(lambda: (model.open, model.aborted), (0, 1))


async def test_connections_are_used_again(client: ModelClient, model: FakeModel) -> None:
    for _ in range(3):
        await ask(client, model.url, "ok")
    connector = client._session.connector
    assert connector is not None
    assert sum(len(free) for free in connector._conns.values()) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:1",
        "http://127.0.0.2",
        "ftp://127.0.0.1",
        "http://127.0.0.1@elsewhere",
        "http://127.0.0.1.elsewhere",
        "//127.0.0.1",
    ],
)
async def test_other_hosts_are_not_called(client: ModelClient, url: str) -> None:
    with pytest.raises(CallError) as failure:
        await ask(client, url, "ok")
    assert failure.value.error_type == "host_not_allowed"


@pytest.mark.parametrize("url", ["", "http://[", "http://x:port"])
async def test_a_url_that_is_none(client: ModelClient, url: str) -> None:
    with pytest.raises(CallError) as failure:
        await ask(client, url, "ok")
    assert failure.value.error_type == "invalid_request"


async def test_the_key_is_neither_logged_nor_told(
    client: ModelClient, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(CallError) as failure:
        await ask(client, model.url, f"401{KEY}")
    assert failure.value.text == "no 401*** (HTTP 401)"
    assert KEY not in caplog.text


async def test_without_a_key_none_is_sent(model: FakeModel) -> None:
    client = ModelClient(AllowedHosts(["127.0.0.1"]), "")
    await ask(client, model.url, "ok")
    await client.close()
    assert "Authorization" not in model.headers[0]


async def turns_taken(client: ModelClient, model: FakeModel) -> Endpoint:
    """The model's endpoint, while as many connections as may be are opened to it."""
    url = URL(model.url)
    endpoint = client._endpoints.at(f"{url.host}:{url.port}")
    while not endpoint.opening.locked():
        await endpoint.opening.acquire()
    return endpoint


async def test_connections_are_opened_so_many_at_a_time(
    client: ModelClient, model: FakeModel
) -> None:
    endpoint = await turns_taken(client, model)
    waiting = asyncio.create_task(ask(client, model.url, "ok"))
    await asyncio.sleep(0.1)
    assert not model.requests
    endpoint.opening.release()
    assert (await waiting).content == "proposal of ok"
    assert not endpoint.opening.locked()


async def test_who_waits_for_a_connection_hears_that_the_server_is_left_alone(
    client: ModelClient, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_executor_worker.endpoint._FAILING_S", 0.0)
    endpoint = await turns_taken(client, model)
    waiting = asyncio.create_task(ask(client, model.url, "ok"))
    await asyncio.sleep(0.1)
    while not endpoint.left_alone:
        endpoint.failed(CallError("http_status", "down (HTTP 500)"), probe=False)
    endpoint.opening.release()
    with pytest.raises(CallError, match="keeps failing"):
        await waiting
    assert not model.requests
    assert not endpoint.opening.locked()
    assert endpoint.left_alone  # a call that was not sent closes no breaker
