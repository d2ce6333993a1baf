"""A real nats-server and `ray-executor serve`, without a Ray, for the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Optional

MODULE = Path(__file__).resolve().parents[3]
PATIENCE_S = 30.0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Rig:
    """The server, its journal, and a stand-in for the Ray worker."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._nats_port = free_port()
        self._port = free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def nats_url(self) -> str:
        return f"nats://127.0.0.1:{self._nats_port}"

    def _environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "NATS_URL": self.nats_url,
            "PORT": str(self._port),
            "GRPC_PORT": "0",
            "VLLM_URL": "http://models.test",
            "VLLM_MODEL": "m",
            "RAY_ADDRESS": "http://127.0.0.1:9",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),  # for the worker
        }

    def _start(self, name: str, *command: str) -> None:
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=self._directory, env=self._environ(), stdout=log, stderr=log
            )

    def start(self) -> None:
        self.start_nats()
        program = binary("RAY_EXECUTOR", "bin/ray-executor", "make build")
        subprocess.run(
            [program, "deploy", "--only", "journal"],
            cwd=self._directory,
            env=self._environ(),
            check=True,
            capture_output=True,
        )
        self.start_server()
        self._start("worker", sys.executable, str(Path(__file__).with_name("worker.py")))

    def start_nats(self) -> None:
        program = binary("NATS_SERVER", ".tools/nats-server", "make .tools/nats-server")
        port, store = str(self._nats_port), str(self._directory / "store")
        self._start("nats", program, "-a", "127.0.0.1", "-p", port, "-js", "-sd", store)
        self._until(lambda: socket.create_connection(("127.0.0.1", self._nats_port)).close())

    def start_server(self) -> None:
        program = binary("RAY_EXECUTOR", "bin/ray-executor", "make build")
        self._start("serve", program, "serve")
        ready = f"{self.url}/health/readiness"
        self._until(lambda: urllib.request.urlopen(ready).close())  # noqa: S310 - our own server

    def stop(self, name: str, *, kill: bool = False) -> None:
        process = self._processes.pop(name)
        process.kill() if kill else process.terminate()
        process.wait(PATIENCE_S)

    def close(self) -> None:
        for name in ("worker", "serve", "nats"):
            if name in self._processes:
                self.stop(name, kill=True)

    def log(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text(encoding="utf-8")

    @staticmethod
    def _until(attempt: object) -> None:
        assert callable(attempt)
        failure: Optional[OSError] = None
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                attempt()
                return
            except OSError as error:
                failure = error
                time.sleep(0.02)
        raise AssertionError(failure)


def binary(variable: str, path: str, make: str) -> str:
    found = Path(os.environ.get(variable) or MODULE / path)
    if not found.is_file():
        raise AssertionError(f"there is no {found}: {make}")
    return str(found)
