"""A TCP proxy between the product and the provider that misbehaves when told to. It knows nothing of HTTP.

What arrives from the client while nothing is owed to it is a request; each one may meet a fault.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

CUT_BEFORE = "cut before send"  # the provider never sees it
CUT_AFTER = "cut after send"  # the provider does it, and the answer is lost
HELD = "held"  # it arrives late: perhaps after the client has given up
RESET = "reset"  # cut before send, by RST
KINDS = (CUT_BEFORE, CUT_AFTER, HELD, RESET)

_CHUNK = 65_536
# Most are short; a few outlast the product's read timeout of 10 s, so that an effect comes after its caller has gone.
_HELD_S = (0.5, 1.0, 2.0, 12.0)


class Proxy:
    """Runs in a thread of its own. `hit` counts the requests that met a fault, by kind."""

    def __init__(self, upstream: Callable[[], str], *, seed: str) -> None:
        """`upstream` tells the provider's address; it is asked for each connection, because the stack may restart."""
        self.hit: Counter[str] = Counter()
        self._upstream = upstream
        self._random = random.Random(seed)
        self._kind = ""
        self._share = 0.0
        self._until = 0.0
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._listening.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def misbehave(self, kind: str, *, seconds: float, share: float) -> None:
        """From now on, for so long, so large a share of the requests meets this fault."""
        self._kind, self._share, self._until = kind, share, time.monotonic() + seconds

    def behave(self) -> None:
        self._until = 0.0

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # --- In the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0.05)  # what they closed is closed in the loop's next turns

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            address = urlsplit(self._upstream())
            provider, to_provider = await asyncio.open_connection(address.hostname, address.port)
        except OSError:
            _reset(to_client)  # as if the provider itself had refused
            return
        try:
            await _Connection(self, client, to_client, provider, to_provider).run()
        except (OSError, asyncio.CancelledError):
            pass  # somebody hung up; or the proxy ends
        finally:
            for writer in (to_client, to_provider):
                writer.close()

    def draw(self) -> str:
        """The fault that the next request meets; empty: none."""
        if time.monotonic() > self._until or self._random.random() > self._share:
            return ""
        self.hit[self._kind] += 1
        return self._kind

    def held_s(self) -> float:
        return self._random.choice(_HELD_S)


class _Connection:
    def __init__(
        self,
        proxy: Proxy,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        provider: asyncio.StreamReader,
        to_provider: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._client, self._to_client = client, to_client
        self._provider, self._to_provider = provider, to_provider
        self._answer_owed = False
        self._lose_answer = False

    async def run(self) -> None:
        answers = asyncio.create_task(self._answers())
        try:
            await self._requests()
            if self._answer_owed:  # the client has gone; what it asked for happens all the same
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(answers, 30)
        finally:
            answers.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await answers

    async def _requests(self) -> None:
        while data := await self._client.read(_CHUNK):
            fault = "" if self._answer_owed else self._proxy.draw()
            if fault in (CUT_BEFORE, RESET):
                if fault == RESET:
                    _reset(self._to_client)
                return
            if fault == HELD:
                await asyncio.sleep(self._proxy.held_s())
            self._lose_answer = self._lose_answer or fault == CUT_AFTER
            self._answer_owed = True
            self._to_provider.write(data)
            await self._to_provider.drain()

    async def _answers(self) -> None:
        while data := await self._provider.read(_CHUNK):
            self._answer_owed = False
            if self._lose_answer:
                break
            with contextlib.suppress(ConnectionError):
                self._to_client.write(data)
                await self._to_client.drain()
        self._to_client.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closing with a linger of zero sends RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
