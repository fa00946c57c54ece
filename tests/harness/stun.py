"""A STUN server on loopback that says what a test wants."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from nat.stun import binding_error, binding_success, parse

MAPPED = "198.51.100.7"


class StunServer:
    """Answers every request with `says`, or with an error while that is None; silent while `mute`.

    While it `varies`, every answer has another address.
    """

    def __init__(self) -> None:
        self.says: str | None = MAPPED
        self.mute = False
        self.varies = False
        self.asked: list[tuple[str, int]] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data, source = await loop.sock_recvfrom(self.socket, 2048)
            self.asked.append(source)
            if self.mute:
                continue
            request = parse(data)
            if self.varies:
                self.says = f"198.51.100.{len(self.asked) % 200 + 10}"
            answer = (
                binding_error(request, 500) if self.says is None else binding_success(request, (self.says, 1))
            )
            self.socket.sendto(answer.encode(), source)

    def close(self) -> None:
        self.socket.close()


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[StunServer]:
    server = StunServer()
    task = asyncio.create_task(server.serve())
    try:
        yield server
    finally:
        task.cancel()
        server.close()
