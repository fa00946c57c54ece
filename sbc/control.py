"""The control socket: one JSON line asks, one JSON line answers, on a Unix socket only for its owner.

`ControlServer` is the face inside `sbc run`; `ask` is what the command line uses. What the verbs do is in
`sbc.operator`: this file knows the wire and its limits only.
"""

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping

from sbc.log import get_log

REQUEST_LIMIT = 64 * 1024
"""Longest request line in bytes. The longest real one names a call."""
ANSWER_LIMIT = 64 * 1024 * 1024
"""Longest answer that the client reads: thousands of calls in `sbc calls --json`."""
REQUEST_DEADLINE_S = 10.0
"""A client that does not finish its request, or does not read its answer, is cut off after this."""
CLIENT_LIMIT = 16
"""Operators at a time. One more waits for the kernel's backlog."""

Arguments = Mapping[str, object]
Verb = Callable[[Arguments], Awaitable[object]]


class ControlError(Exception):
    """What the operator asked for cannot be done; the text is for them to read."""


class ControlSocket:
    """A bound control socket. `close` leaves no file behind. Raises ControlError when there cannot be one."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = _listen(path)
        self._inode = os.stat(path).st_ino

    def close(self) -> None:
        """Stop listening and remove the socket file, unless another process has put its own there."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)


class ControlServer:
    """Listens on `path` and answers with `verbs` until it is cancelled; `close` leaves no file behind."""

    def __init__(self, path: str, verbs: Mapping[str, Verb]) -> None:
        self._verbs = verbs
        self._log = get_log("sbc.control")
        self._socket = ControlSocket(path)
        self._next: ControlSocket | None = None
        self._moving = asyncio.Event()

    @property
    def path(self) -> str:
        """Where it listens."""
        return self._socket.path

    async def serve(self) -> None:
        """Accept clients, at most `CLIENT_LIMIT` at a time."""
        slots = asyncio.Semaphore(CLIENT_LIMIT)
        async with asyncio.TaskGroup() as tasks:
            while True:
                accepting = tasks.create_task(self._accept(self._socket.socket, tasks, slots))
                await self._moving.wait()
                self._moving.clear()
                accepting.cancel()
                await asyncio.wait([accepting])
                if self._next is not None:
                    self._socket.close()
                    self._socket, self._next = self._next, None

    def move(self, fresh: ControlSocket) -> None:
        """Listen there instead; who is being served is served to the end."""
        if self._next is not None:
            self._next.close()
        self._next = fresh
        self._moving.set()

    def close(self) -> None:
        """Stop listening."""
        for one in (self._socket, self._next):
            if one is not None:
                one.close()
        self._next = None

    async def _accept(
        self, listening: socket.socket, clients: asyncio.TaskGroup, slots: asyncio.Semaphore
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await slots.acquire()
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError as error:
                # Out of descriptors or memory: the calls matter more, and it may pass.
                slots.release()
                self._log.warning("control socket cannot accept", error=error)
                await asyncio.sleep(1.0)
                continue
            except asyncio.CancelledError:
                slots.release()
                raise
            client.setblocking(False)
            clients.create_task(self._attend(client, slots))

    async def _attend(self, client: socket.socket, slots: asyncio.Semaphore) -> None:
        try:
            with client:
                async with asyncio.timeout(REQUEST_DEADLINE_S):
                    line = await _read_line(client)
                answer = await self._answer(line)
                async with asyncio.timeout(REQUEST_DEADLINE_S):
                    await asyncio.get_running_loop().sock_sendall(client, answer)
        except (TimeoutError, OSError):
            self._log.debug("control client went away")
        finally:
            slots.release()

    async def _answer(self, line: bytes) -> bytes:
        try:
            verb, arguments = _parse_request(line)
            do = self._verbs.get(verb)
            if do is None:
                raise ControlError(f"unknown verb {verb!r}; known: {', '.join(sorted(self._verbs))}")
            result = await do(arguments)
        except ControlError as error:
            return _encode({"ok": False, "error": str(error)})
        # The one broad except of this loop: a bug in a verb is told to the operator and ends nothing else.
        except Exception as error:
            self._log.error("control request failed by our own bug", error=error)
            return _encode(
                {"ok": False, "error": f"internal error: {type(error).__name__}; the log has the details"}
            )
        return _encode({"ok": True, "result": result})


def ask(path: str, verb: str, arguments: Arguments | None = None, timeout_s: float = 30.0) -> object:
    """Ask the SBC on `path`; the result as JSON gives it. Raises ControlError with a readable text."""
    request = _encode({"verb": verb, "arguments": dict(arguments or {})})
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
        wire.settimeout(timeout_s)
        try:
            wire.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise ControlError(
                f"no SBC is running on {path}; start it with sbc run FILE, or give its control.socket with --socket"
            ) from error
        except PermissionError as error:
            raise ControlError(f"{path} belongs to another user; run this as the user of the SBC") from error
        except OSError as error:
            raise ControlError(f"cannot reach {path}: {error.strerror or error}") from error
        try:
            wire.sendall(request)
            line = _read_answer(wire)
        except TimeoutError as error:
            raise ControlError(
                f"the SBC on {path} has not answered within {timeout_s:g} s; its log says what it is busy with"
            ) from error
        except OSError as error:
            raise ControlError(
                f"the SBC on {path} hung up: {error.strerror or error}; its log says whether it was stopped"
            ) from error
    return _open_answer(path, line)


def _open_answer(path: str, line: bytes) -> object:
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ControlError(
            f"the SBC on {path} hung up before it had answered; its log says whether it was stopped"
        ) from error
    if not isinstance(answer, dict) or "ok" not in answer:
        raise ControlError(f"whatever listens on {path} is not an SBC; give its control.socket with --socket")
    if not answer["ok"]:
        raise ControlError(str(answer.get("error", "refused without a reason")))
    return answer.get("result")


def _read_answer(wire: socket.socket) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := wire.recv(256 * 1024):
        chunks.append(chunk)
        size += len(chunk)
        if chunk.endswith(b"\n") or size > ANSWER_LIMIT:
            break
    return b"".join(chunks)


async def _read_line(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    line = bytearray()
    while b"\n" not in line and len(line) <= REQUEST_LIMIT:
        chunk = await loop.sock_recv(client, 4096)
        if not chunk:
            break
        line += chunk
    return bytes(line)


def _parse_request(line: bytes) -> tuple[str, Arguments]:
    if len(line) > REQUEST_LIMIT:
        raise ControlError(f"request longer than {REQUEST_LIMIT} bytes")
    try:
        request = json.loads(line)
    # RecursionError: a line of brackets only, within the limit of size.
    except (ValueError, RecursionError) as error:
        raise ControlError("request is not a line of JSON") from error
    if not isinstance(request, dict):
        raise ControlError("request is not a JSON object")
    verb, arguments = request.get("verb"), request.get("arguments", {})
    if not isinstance(verb, str) or not isinstance(arguments, dict):
        raise ControlError('a request is {"verb": "...", "arguments": {...}}')
    return verb, arguments


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # The mode is set before the file exists under its name: between bind and chmod others could connect.
    mask = os.umask(0o177)
    try:
        try:
            listener.bind(path)
        except OSError:
            _remove_stale(path)
            listener.bind(path)
        listener.listen(CLIENT_LIMIT)
    except OSError as error:
        listener.close()
        raise ControlError(f"control.socket {path}: {error.strerror or error}") from error
    except ControlError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on: an SBC that was killed leaves one behind."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ControlError(
                f"control.socket {path}: there is a file that is not a socket; remove it or choose another"
            )
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            raise ControlError(f"control.socket {path}: {error.strerror or error}") from error
        else:
            raise ControlError(
                f"control.socket {path}: another SBC is running there; stop it or choose another path"
            )
