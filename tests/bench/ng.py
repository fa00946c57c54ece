"""As much of rtpengine's control protocol (ng: a cookie and a bencoded dictionary in a datagram) as the bench needs."""

import itertools
import socket
from collections.abc import Mapping

Value = str | int | list["Value"] | dict[str, "Value"]


class Ng:
    """Asks one rtpengine."""

    def __init__(self, host: str, port: int = 2223) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(5)
        self._socket.connect((host, port))
        self._cookies = itertools.count(1)

    def __enter__(self) -> "Ng":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, command: str, **arguments: Value) -> dict[str, Value]:
        """The answer; `_` in the names of arguments stands for `-`. AssertionError when it refuses."""
        question: dict[str, Value] = {"command": command}
        question |= {name.replace("_", "-"): value for name, value in arguments.items()}
        cookie = f"{next(self._cookies)}"
        self._socket.send(cookie.encode() + b" " + encode(question))
        while True:
            came, _, data = self._socket.recv(65535).partition(b" ")
            if came.decode() == cookie:
                break
        answer, _ = decode(data)
        if not isinstance(answer, dict) or answer.get("result") == "error":
            raise AssertionError(f"rtpengine refuses {command}: {answer}")
        return answer


def encode(value: Value | Mapping[str, Value]) -> bytes:
    """Bencode."""
    if isinstance(value, int):
        return f"i{value}e".encode()
    if isinstance(value, str):
        data = value.encode()
        return f"{len(data)}:".encode() + data
    if isinstance(value, list):
        return b"l" + b"".join(map(encode, value)) + b"e"
    return b"d" + b"".join(encode(key) + encode(value[key]) for key in sorted(value)) + b"e"


def decode(data: bytes, at: int = 0) -> tuple[Value, int]:
    """Bencode read from `at`: the value, and where it ends. ValueError when it is none."""
    mark = data[at : at + 1]
    if mark == b"i":
        end = data.index(b"e", at)
        return int(data[at + 1 : end]), end + 1
    if mark == b"l":
        items: list[Value] = []
        at += 1
        while data[at : at + 1] != b"e":
            item, at = decode(data, at)
            items.append(item)
        return items, at + 1
    if mark == b"d":
        found: dict[str, Value] = {}
        at += 1
        while data[at : at + 1] != b"e":
            key, at = decode(data, at)
            found[str(key)], at = decode(data, at)
        return found, at + 1
    colon = data.index(b":", at)
    end = colon + 1 + int(data[at:colon])
    return data[colon + 1 : end].decode(errors="replace"), end
