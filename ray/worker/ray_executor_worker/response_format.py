"""The form that a proposal must have: what the server is asked for, and the check."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

# A process that does not answer by then is killed; it ends itself before.
_PATIENCE_S = 5.0
_LINE_BYTES = 64 * 1024
_TOO_SLOW = "it cannot be checked within a second"
_NO_ANSWER = f"it cannot be checked: no answer within {_PATIENCE_S:.0f} s"


@dataclass(frozen=True)
class ResponseFormat:
    """One form; `spec` is the schema's text, the expression, or the choices."""

    kind: str
    spec: Union[str, tuple[str, ...]] = ""

    def parameters(self) -> dict[str, Any]:
        """What asks an OpenAI-compatible server for it.

        vLLM has names of its own for what OpenAI does not know. See
        https://docs.vllm.ai/en/latest/features/structured_outputs.html.
        """
        if self.kind == "json_schema":
            schema = {"name": "proposal", "schema": json.loads(str(self.spec)), "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        if self.kind == "json_object":
            return {"response_format": {"type": "json_object"}}
        spec = list(self.spec) if self.kind == "choice" else self.spec
        return {"structured_outputs": {self.kind: spec}}


def read_response_format(message: Any) -> Optional[ResponseFormat]:
    """The plain form of a ResponseFormat message."""
    kind = message.WhichOneof("format")
    if kind is None:
        return None
    if kind == "choice":
        return ResponseFormat(kind, tuple(message.choice.values))
    return ResponseFormat(kind, getattr(message, kind) if kind != "json_object" else "")


class FormatChecker:
    """Checks texts in a process that it starts when there is one to check."""

    def __init__(self) -> None:
        self._process: Optional[asyncio.subprocess.Process] = None
        # One check at a time: the process has one thread.
        self._turn = asyncio.Lock()
        # Forms that took too long: one costs its deliberation a second, not
        # every deliberation a second for each of its agents.
        self._slow: deque[ResponseFormat] = deque(maxlen=64)

    async def check(self, form: ResponseFormat, text: str) -> Optional[str]:
        """Why a text does not fit; None where it does."""
        answer, why = await self._run(form, text)
        found: Optional[str] = json.loads(answer) if answer else why
        return found

    async def answer(self, form: ResponseFormat, text: str) -> tuple[Optional[str], str]:
        """What a text answers, found by `answer_regex` or `answer_pointer`; or why nothing."""
        answer, why = await self._run(form, text)
        if not answer:
            return None, why
        found, why = json.loads(answer)
        return found, why

    async def _run(self, form: ResponseFormat, text: str) -> tuple[bytes, str]:
        """The process's answer; empty, and why, where there is none."""
        asked = json.dumps({"kind": form.kind, "spec": form.spec, "text": text}).encode() + b"\n"
        async with self._turn:
            if form in self._slow:  # perhaps since this check waits for its turn
                return b"", _TOO_SLOW
            answer, why = await self._answer(asked)
            if not answer and why != _TOO_SLOW:
                # The node's fault, not the form's: once more, in a new process.
                answer, why = await self._answer(asked)
            if why == _TOO_SLOW:
                self._slow.append(form)
        return answer, why

    async def _answer(self, asked: bytes) -> tuple[bytes, str]:
        """The process's answer; empty, and why, where there is none."""
        try:
            answer = await asyncio.wait_for(self._ask(asked), _PATIENCE_S)
            why = "" if answer else await self._death()
        except asyncio.TimeoutError:
            answer, why = b"", _NO_ANSWER
        except OSError as error:
            answer, why = b"", f"it cannot be checked: {error.strerror or error}"
        except BaseException:
            await self.close()  # its next answer would be to this check
            raise
        if not answer:
            await self.close()
        return answer, why

    async def _death(self) -> str:
        """Why the process ended in place of an answer."""
        status = await self._process.wait() if self._process is not None else None
        if status == -signal.SIGPROF:
            return _TOO_SLOW
        return f"it cannot be checked: the process for it ended with {status}"

    async def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()

    async def _ask(self, line: bytes) -> bytes:
        if self._process is None or self._process.returncode is not None:
            self._process = await self._start()
        process = self._process
        reader, writer = process.stdout, process.stdin
        if reader is None or writer is None:  # both are pipes
            return b""
        writer.write(line)
        await writer.drain()
        return await reader.readline()

    async def _start(self) -> asyncio.subprocess.Process:
        library_path = os.environ.get("LD_LIBRARY_PATH")
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(Path(__file__).with_name("format_child.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LINE_BYTES,
            env={"LD_LIBRARY_PATH": library_path} if library_path else {},
        )
