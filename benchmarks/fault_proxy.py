"""A proxy between an S3 client and its server that spoils some of the requests, and counts all of them.

It serves one request per connection, in a thread of its own, and passes bytes on as they are, so signatures stay valid.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

FAULTS: Final = ("503", "reset before", "reset after", "truncated", "stall")
STALL_S = 10.0  # seconds; a test makes it shorter
_HEAD_END: Final = b"\r\n\r\n"
_BUSY: Final = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass(frozen=True)
class Request:
    """A request as it arrived.

    Attributes:
        number: 1 for the first since the proxy was told to count anew.
        method: ``GET``, ``PUT``, ...
        path: of the URL, without the query.
        port: the client's, which tells what process it is.
    """

    number: int
    method: str
    path: str
    port: int


Watcher = Callable[[Request, bool], None]
"""Is called with each request before it is passed on, and with True once it is answered and not yet passed back."""


@dataclass
class FaultProxy:
    """The proxy; use it as a context.

    Attributes:
        upstream_port: of the server on 127.0.0.1.
        port: of the proxy, once it runs.
        fault_rate: share of requests that are spoilt.
        watcher: is told of each request.
        written: how often each path was stored, answered with success and told the client.
        faults: how often each fault was made.
    """

    upstream_port: int
    port: int = 0
    fault_rate: float = 0.0
    watcher: Watcher | None = None
    written: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    _random: random.Random = field(default_factory=random.Random)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __enter__(self) -> Self:
        ready = threading.Event()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
            self.port = int(server.sockets[0].getsockname()[1])
            ready.set()
            self._loop.run_forever()

        threading.Thread(target=run, name="fault-proxy", daemon=True).start()
        ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def start_run(self, seed: int, fault_rate: float = 0.0, watcher: Watcher | None = None) -> None:
        """Count anew."""
        self.requests, self.fault_rate, self.watcher = 0, fault_rate, watcher
        self.written, self._random = Counter(), random.Random(seed)  # noqa: S311 -- seeded on purpose

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(_HEAD_END)
        line, *fields = head.rstrip().split(b"\r\n")
        method, target, _ = line.decode("latin-1").split(" ")
        names = {name.strip().lower(): value.strip() for name, _, value in (each.partition(b":") for each in fields)}
        if names.get(b"expect", b"").lower() == b"100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(names.get(b"content-length", b"0")))
        self.requests += 1
        port = int(writer.get_extra_info("peername")[1])
        request = Request(self.requests, method, target.partition("?")[0], port)
        if self.watcher is not None:
            self.watcher(request, False)
        fault = self._draw()
        if fault == "stall":
            await asyncio.sleep(STALL_S)
        if fault == "503":
            writer.write(
                b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Type: application/xml\r\n"
                b"Content-Length: %d\r\n\r\n" % len(_BUSY) + (b"" if method == "HEAD" else _BUSY)
            )
            await writer.drain()
            return
        if fault == "reset before":
            writer.transport.abort()
            return
        kept = [each for each in fields if each.split(b":")[0].lower() not in {b"connection", b"expect"}]
        answer = await self._pass_on(b"\r\n".join([line, *kept, b"Connection: close"]) + _HEAD_END + body)
        if self.watcher is not None:
            self.watcher(request, True)
        if fault == "reset after" or not answer:
            writer.transport.abort()
            return
        if fault == "truncated":
            start = answer.index(_HEAD_END) + len(_HEAD_END)
            writer.write(answer[: start + (len(answer) - start) // 2])
            await writer.drain()
            writer.transport.abort()
            return
        writer.write(answer)
        await writer.drain()
        if method == "PUT" and answer.split(b" ", 2)[1] == b"200":
            self.written[request.path] += 1

    async def _pass_on(self, data: bytes) -> bytes:
        """Ask the server; gives its whole answer, which ends the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        try:
            writer.write(data)
            await writer.drain()
            answer = await reader.read(-1)
        finally:
            writer.close()
        head, separator, body = answer.partition(_HEAD_END)
        lines = [each for each in head.split(b"\r\n") if not each.lower().startswith(b"connection:")]
        return b"\r\n".join([*lines, b"Connection: close"]) + separator + body if separator else b""

    def _draw(self) -> str | None:
        if self._random.random() >= self.fault_rate:
            return None
        fault = self._random.choice(FAULTS)
        self.faults[fault] += 1
        return fault
