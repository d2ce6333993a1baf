"""A model server in a process of its own, that keeps nothing.

Prints its URL, and runs until its input ends; then how many bytes it was sent.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

_PIECE = 64 * 1024


class Sink:
    """The model `long-N` answers with N bytes."""

    def __init__(self) -> None:
        self.bytes = 0

    async def chat(self, request: web.Request) -> web.StreamResponse:
        head = b""
        async for chunk in request.content.iter_any():
            self.bytes += len(chunk)
            head = head or chunk[:200]
        model = head.partition(b'"model": "')[2].partition(b'"')[0].decode()
        size = int(model.partition("-")[2] or 10)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"choices": [{"message": {"content": "')
        for at in range(0, size, _PIECE):
            await response.write(b"x" * min(_PIECE, size - at))
        await response.write(b'"}}]}')
        return response


async def main() -> None:
    sink = Sink()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", sink.chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()
    sys.stdout.write(f"{sink.bytes}\n")


if __name__ == "__main__":
    asyncio.run(main())
