"""A SIP ALG as routers have them: a proxy in the router that rewrites what it understands of a phone's SIP over UDP.

Each kind rewrites one half and leaves the other as the phone wrote it.
"""

import contextlib
import re
import select
import socket
import threading
from collections.abc import Callable

from tests.lab.homes import Home, Street
from tests.lab.namespaces import PUBLIC, SIDES
from tests.lab.talk import Address, inside, udp

PORT = 5099
"""Where the ALG listens in the router; what phones send to the border is led there."""
UPSTREAM = 5600
"""The first of the ports that it uses towards the Internet, one for each phone."""

Rewrite = Callable[[str, Address, Address], str]
"""(message, the phone, what the Internet sees of it) -> message."""


def contact_only(message: str, phone: Address, outside: Address) -> str:
    """Contact gets the public address; SDP keeps the private one."""
    head, _, body = message.partition("\r\n\r\n")
    head = re.sub(
        r"(?im)^(Contact:.*?)" + re.escape(phone[0]) + r"(:\d+)?",
        lambda found: f"{found[1]}{outside[0]}:{outside[1]}",
        head,
    )
    return f"{head}\r\n\r\n{body}"


def sdp_address_only(message: str, phone: Address, outside: Address) -> str:
    """SDP gets the public address, its port stays that of the phone; Contact stays private."""
    return _with_body(message, lambda body: _connection(body, outside[0]))


def sdp_wrong_port(message: str, phone: Address, outside: Address) -> str:
    """SDP gets the public address and a port that the ALG thought of and never opened."""
    return _with_body(
        message,
        lambda body: re.sub(r"(?m)^m=audio \d+", "m=audio 62000", _connection(body, outside[0])),
    )


def sdp_foreign_address(message: str, phone: Address, outside: Address) -> str:
    """SDP gets the address that the router had before: that of another host by now."""
    return _with_body(message, lambda body: _connection(body, SIDES[PUBLIC].peers[2]))


def _connection(body: str, host: str) -> str:
    """o= stays what it was, as with most ALGs."""
    return re.sub(r"(?m)^c=IN IP4 \S+", f"c=IN IP4 {host}", body)


def _with_body(message: str, change: Callable[[str], str]) -> str:
    head, _, body = message.partition("\r\n\r\n")
    if not body:
        return message
    body = change(body)
    head = re.sub(r"(?im)^(Content-Length|l)[ \t]*:.*$", f"Content-Length: {len(body.encode())}", head)
    return f"{head}\r\n\r\n{body}"


class Alg:
    """Rewrites in the router of a home until `stop`; `port` is that of the border."""

    def __init__(self, street: Street, home: Home, rewrite: Rewrite, port: int = 5060) -> None:
        self._street = street
        self._home = home
        self._rewrite = rewrite
        self._border = (SIDES[PUBLIC].border, port)
        self._inner = inside(street, home.router, lambda: udp("0.0.0.0", PORT))
        self._outer: dict[Address, socket.socket] = {}
        self.rewritten = 0
        home.redirect(f"udp dport {port}", PORT)
        # What the router knows already goes on as before; a phone that has called before is known.
        home.reboot(keep_address=True)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it and give the way free again."""
        self._stopping.set()
        self._thread.join()
        for sock in (self._inner, *self._outer.values()):
            sock.close()
        self._home.translate(self._home.nat)
        self._home.reboot(keep_address=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            ready, _, _ = select.select([self._inner, *self._outer.values()], [], [], 0.05)
            for sock in ready:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    data, (host, port) = sock.recvfrom(65535)
                    self._pass(sock, data, (host, port))

    def _pass(self, sock: socket.socket, data: bytes, source: Address) -> None:
        if sock is not self._inner:
            phone = next(phone for phone, outer in self._outer.items() if outer is sock)
            self._inner.sendto(data, phone)
            return
        if source not in self._outer:
            outside = (self._home.address, UPSTREAM + len(self._outer))
            self._outer[source] = inside(self._street, self._home.router, lambda: udp(*outside))
        outer = self._outer[source]
        text = data.decode("utf-8", "surrogateescape")
        changed = self._rewrite(text, source, outer.getsockname()[:2]) if "SIP/2.0" in text else text
        self.rewritten += changed != text
        outer.sendto(changed.encode("utf-8", "surrogateescape"), self._border)
