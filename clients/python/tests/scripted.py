"""A server that answers each request as the test says, and notes what it was sent."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from base64 import b64encode
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Optional, Union

from ray_executor_client import messages


class Sent(NamedTuple):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """A response; without ``whole`` the connection is cut behind the body."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    whole: bool = True


class Silence(NamedTuple):
    """No answer, or ``body`` and then nothing, while the connection stays open."""

    body: bytes = b""


Step = Union[Answer, Silence]


def reply(message: object) -> Answer:
    assert hasattr(message, "SerializeToString")
    return Answer(body=message.SerializeToString())


def refused(  # noqa: PLR0913 - an error
    status: int,
    code: str,
    ours: str,
    *,
    message: str = "no",
    field: str = "",
    retry_after: str = "",
) -> Answer:
    """An error as the server writes it."""
    detail = messages.Error(code=ours, message=message, field=field)
    value = b64encode(detail.SerializeToString()).decode().rstrip("=")
    body: dict[str, object] = {"code": code, "message": message}
    if ours:  # a refusal of the RPC library has none
        body["details"] = [{"type": "ray_executor.v1.Error", "value": value}]
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    if retry_after:
        headers += (("retry-after", retry_after),)
    return Answer(status, headers, json.dumps(body).encode())


def frame(data: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BI", flags, len(data)) + data


def event(sequence: int, status: str = "running") -> bytes:
    made = messages.WatchDeliberationResponse(sequence=sequence, status=status)
    return frame(made.SerializeToString())


END = frame(b"{}", 2)


class Scripted:
    """The server; the last step answers all further requests."""

    def __init__(self, *steps: Step) -> None:
        self.sent: list[Sent] = []
        # Set once a request has come.
        self.came = threading.Event()
        self._steps = list(steps)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Scripted:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as reader:
                while True:
                    sent = self._read(iter(reader.readline, b""), reader.read)
                    if sent is None:
                        return
                    with self._lock:
                        self.sent.append(sent)
                        self.came.set()
                        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
                    if not self._answer(connection, step):
                        return
        except (OSError, ValueError):
            pass  # the caller has gone

    @staticmethod
    def _read(lines: Iterable[bytes], read: object) -> Optional[Sent]:
        assert callable(read)
        first = next(iter(lines), b"").decode()
        if not first:
            return None
        headers: dict[str, str] = {}
        for line in lines:
            if not line.strip():
                break
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return Sent(first.split()[1], headers, read(int(headers.get("content-length", "0"))))

    @staticmethod
    def _answer(connection: socket.socket, step: Step) -> bool:
        if isinstance(step, Silence):
            connection.sendall(step.body)
            connection.recv(1)  # until the caller goes
            return False
        length = len(step.body) + (0 if step.whole else 1)
        head = [f"HTTP/1.1 {step.status} .", f"content-length: {length}"]
        head += [f"{name}: {value}" for name, value in step.headers]
        connection.sendall("\r\n".join([*head, "", ""]).encode() + step.body)
        if not step.whole:
            connection.shutdown(socket.SHUT_RDWR)
        return step.whole
