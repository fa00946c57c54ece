"""The bpf(2) system call, as far as a loader and a flow table need it; no library but the C one that Python has.

Attributes are `union bpf_attr` of linux/bpf.h. Whatever the kernel refuses is an OSError, or for the loading of a
program `Refused`, which says it in one sentence.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from media.fastpath.elf import MapDefinition, Program

# The number of the system call, by machine: arch/*/include/uapi/asm/unistd*.h, asm-generic/unistd.h.
_NUMBERS = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64": 361,
    "ppc64le": 361,
    "s390x": 351,
}

_MAP_CREATE = 0
_MAP_LOOKUP = 1
_MAP_UPDATE = 2
_MAP_DELETE = 3
_PROG_LOAD = 5
_PROG_TEST_RUN = 10
_PROG_QUERY = 16
_MAP_TAKE = 21
_MAP_LOOKUP_BATCH = 24
_MAP_UPDATE_BATCH = 26
_MAP_DELETE_BATCH = 27
_LINK_CREATE = 28

_SCHED_CLS = 3
_TCX_INGRESS = 46
_NAME_BYTES = 15
_LOG_BYTES = 1 << 20
_BATCH = 1024
# What deleting has of the attributes; the kernel refuses it when anything is behind that.
_UP_TO_KEY = 16
# What the kernel answers to a command, or to a kind of map, that it does not know: the last is ENOTSUPP, its own.
_UNKNOWN = (errno.EINVAL, errno.EOPNOTSUPP, 524)


class Refused(Exception):
    """The kernel does not take the program; the text says why, for people."""


def number_of(machine: str, pointer_bytes: int) -> int | None:
    """The number of bpf(2) for a process on a machine as uname(2) calls it; None if it is not known.

    A process of 32 bits has the numbers of another machine than the one that uname tells.
    """
    return _NUMBERS.get(machine) if pointer_bytes == 8 else None


class _System:
    """The system call with a block of attributes, both made once: a call is then a microsecond."""

    def __init__(self) -> None:
        # PyDLL: nothing here waits, and to let go of the interpreter would cost more than the call.
        function = ctypes.PyDLL(None, use_errno=True).syscall
        function.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_long)
        function.restype = ctypes.c_long
        self._call = function
        self._number = number_of(os.uname().machine, ctypes.sizeof(ctypes.c_void_p)) or -1

    @property
    def known(self) -> bool:
        """Whether there is a number to call it by; else every call is ENOSYS."""
        return self._number >= 0

    def call(self, command: int, attributes: int, size: int) -> int:
        """The result of a command; raises OSError."""
        result: int = self._call(self._number, command, attributes, size)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def attempt(self, command: int, attributes: int, size: int) -> int:
        """The same for what fails as a matter of course: the negative error number."""
        result: int = self._call(self._number, command, attributes, size)
        return result if result >= 0 else -ctypes.get_errno()

    def run(self, command: int, layout: str, *values: int | bytes) -> int:
        """A command with attributes packed now."""
        attributes = ctypes.create_string_buffer(struct.pack(f"={layout}", *values))
        return self.call(command, ctypes.addressof(attributes), len(attributes) - 1)


_system = _System()


class Map:
    """A map of the kernel. Keys and values are bytes of exactly the sizes of its definition."""

    def __init__(self, fd: int, key_bytes: int, value_bytes: int) -> None:
        self.fd = fd
        self.key_bytes = key_bytes
        self.value_bytes = value_bytes
        self._call = _system.attempt
        self._key = ctypes.create_string_buffer(key_bytes)
        self.value = ctypes.create_string_buffer(value_bytes)
        """Where `lookup` and `take` leave what they find, and what `put` writes."""
        self._key_view = memoryview(self._key).cast("B")
        # Until the kernel says that it knows none: several updates in one call (Linux 5.6).
        self._batches = True
        element = struct.pack("=IIQQQ", fd, 0, ctypes.addressof(self._key), ctypes.addressof(self.value), 0)
        self._attributes = ctypes.create_string_buffer(element, len(element))
        self._at = ctypes.addressof(self._attributes)
        self._size = len(element)

    def close(self) -> None:
        """Close the descriptor; the map is gone with its last one."""
        os.close(self.fd)

    def put(self, key: bytes) -> None:
        """Set the value of `key` to what is in `value`."""
        self._key_view[:] = key
        result = self._call(_MAP_UPDATE, self._at, self._size)
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def lookup(self, key: bytes) -> bool:
        """Read the value of `key` into `value`; False if there is none."""
        self._key_view[:] = key
        return self._found(self._call(_MAP_LOOKUP, self._at, self._size))

    def take(self, key: bytes) -> bool:
        """Read the value of `key` into `value` and delete it, at once; False if there is none."""
        self._key_view[:] = key
        result = self._call(_MAP_TAKE, self._at, self._size)
        if -result in _UNKNOWN:
            # Before Linux 5.14: what comes between the two is forwarded, and not counted.
            return self._found(self._call(_MAP_LOOKUP, self._at, self._size)) and self.delete(key)
        return self._found(result)

    def delete(self, key: bytes) -> bool:
        """Delete `key`; False if it was not there."""
        self._key_view[:] = key
        return self._found(self._call(_MAP_DELETE, self._at, _UP_TO_KEY))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their values; what is added or deleted meanwhile may be missed."""
        key_bytes, value_bytes = self.key_bytes, self.value_bytes
        keys = ctypes.create_string_buffer(key_bytes * _BATCH)
        values = ctypes.create_string_buffer(value_bytes * _BATCH)
        # The place in the table is a number of the kernel's own for a hash, and a key for an array.
        place = ctypes.create_string_buffer(max(8, key_bytes))
        first = True
        while True:
            where = ctypes.addressof(place)
            attributes = _batch_attributes(0 if first else where, where, keys, values, _BATCH, self.fd)
            result = self._call(_MAP_LOOKUP_BATCH, ctypes.addressof(attributes), len(attributes))
            if result < 0 and -result != errno.ENOENT:
                raise OSError(-result, os.strerror(-result))
            (count,) = struct.unpack_from("=I", attributes, 32)
            # Once: `raw` copies all of it.
            all_keys, all_values = keys.raw, values.raw
            for index in range(count):
                yield (
                    all_keys[index * key_bytes : (index + 1) * key_bytes],
                    all_values[index * value_bytes : (index + 1) * value_bytes],
                )
            if result < 0:
                return
            first = False

    def put_all(self, keys: Sequence[bytes], values: bytes | bytearray) -> dict[int, OSError]:
        """Set the values, which lie one behind the other, of `keys`; by their place, why not for those not taken."""
        failed: dict[int, OSError] = {}
        at, size = 0, self.value_bytes
        while at < len(keys):
            end = min(at + _BATCH, len(keys))
            at += self._batch(_MAP_UPDATE_BATCH, keys[at:end], values[at * size : end * size])
            if at < end:
                # The one that it stopped at, or without batches each.
                self.value.raw = bytes(values[at * size : (at + 1) * size])
                try:
                    self.put(keys[at])
                except OSError as error:
                    failed[at] = error
                at += 1
        return failed

    def delete_all(self, keys: Iterable[bytes]) -> None:
        """Delete these keys, as far as they are there."""
        rest = list(keys)
        at = 0
        while at < len(rest):
            end = min(at + _BATCH, len(rest))
            at += self._batch(_MAP_DELETE_BATCH, rest[at:end], None)
            if at < end:
                self.delete(rest[at])
                at += 1

    def _batch(self, command: int, keys: Sequence[bytes], values: bytes | bytearray | None) -> int:
        """How many of them, from the first on, the kernel has dealt with."""
        if not self._batches:
            return 0
        key_block = ctypes.create_string_buffer(b"".join(keys), len(keys) * self.key_bytes)
        value_block = None if values is None else ctypes.create_string_buffer(bytes(values), len(values))
        attributes = _batch_attributes(0, 0, key_block, value_block, len(keys), self.fd)
        result = self._call(command, ctypes.addressof(attributes), len(attributes))
        if result >= 0:
            return len(keys)
        if -result in _UNKNOWN:
            self._batches = False
            return 0
        (count,) = struct.unpack_from("=I", attributes, 32)
        return count if count < len(keys) else 0

    def _found(self, result: int) -> bool:
        if result >= 0:
            return True
        if -result == errno.ENOENT:
            return False
        raise OSError(-result, os.strerror(-result))


def _batch_attributes(
    start: int,
    end: int,
    keys: "ctypes.Array[ctypes.c_char]",
    values: "ctypes.Array[ctypes.c_char] | None",
    count: int,
    fd: int,
) -> "ctypes.Array[ctypes.c_char]":
    block = struct.pack(
        "=QQQQIIQQ",
        start,
        end,
        ctypes.addressof(keys),
        0 if values is None else ctypes.addressof(values),
        count,
        fd,
        0,
        0,
    )
    return ctypes.create_string_buffer(block, len(block))


def create_map(definition: "MapDefinition") -> Map:
    """A new map. Raises Refused."""
    if not _system.known:
        bits = 8 * ctypes.sizeof(ctypes.c_void_p)
        raise Refused(f"the bpf system call of a process of {bits} bits on {os.uname().machine} is not known")
    try:
        fd = _system.run(
            _MAP_CREATE,
            "IIIIIII16s",
            definition.type,
            definition.key_bytes,
            definition.value_bytes,
            definition.max_entries,
            definition.flags,
            0,
            0,
            definition.name.encode()[:_NAME_BYTES],
        )
    except OSError as error:
        raise Refused(_sentence(error, f"the map {definition.name!r}")) from error
    return Map(fd, definition.key_bytes, definition.value_bytes)


def load(program: "Program", maps: dict[str, Map], name: str) -> int:
    """Load a tc program; its descriptor. Raises Refused."""
    code = program.linked({each: table.fd for each, table in maps.items()})
    instructions = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(program.license)

    def attempt(log: "ctypes.Array[ctypes.c_char] | None") -> int:
        return _system.run(
            _PROG_LOAD,
            "IIQQIIQII16s",
            _SCHED_CLS,
            len(code) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(license_text),
            0 if log is None else 1,
            0 if log is None else len(log),
            0 if log is None else ctypes.addressof(log),
            0,
            0,
            name.encode()[:_NAME_BYTES],
        )

    try:
        return attempt(None)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.ENOMEM):
            raise Refused(_sentence(error, "the program")) from error
    # Once more, for the reason: writing the log is dear, so it is not asked for at first.
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        return attempt(log)
    except OSError as error:
        raise Refused(verdict(log.value.decode("ascii", "replace"), error)) from error


def verdict(log: str, error: OSError) -> str:
    """What the verifier's log comes down to: its last word before the statistics."""
    lines = [line.strip() for line in log.splitlines()]
    words = [
        line
        for line in lines
        if line and not line.startswith(("processed ", "verification time", "stack depth"))
    ]
    reason = words[-1] if words else error.strerror
    return f"the kernel's verifier refuses the program: {reason}"


def link(program: int, ifindex: int) -> int:
    """Attach a program to the ingress of an interface by a TCX link, which ends with its descriptor. Raises OSError."""
    return _system.run(_LINK_CREATE, "IIIIII", program, ifindex, _TCX_INGRESS, 0, 0, 0)


def attached(ifindex: int) -> int:
    """How many programs are on the ingress of an interface by TCX. Raises OSError."""
    block = struct.pack("=IIIIQIIQQQQ", ifindex, _TCX_INGRESS, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    attributes = ctypes.create_string_buffer(block, len(block))
    _system.call(_PROG_QUERY, ctypes.addressof(attributes), len(block))
    count: int = struct.unpack_from("=I", attributes, 24)[0]
    return count


class Run(NamedTuple):
    """A program's result on a packet, the packet after it, ns on average, and the priority that it has given it."""

    result: int
    packet: bytes
    ns: int
    priority: int


def test_run(program: int, packet: bytes, repeat: int = 1, gso_bytes: int = 0) -> Run:
    """Run a program on a packet, without an interface.

    With `gso_bytes` the packet is several in one, of so many bytes each.
    """
    # struct __sk_buff up to `gso_size`, which is its last word but one.
    context = ctypes.create_string_buffer(struct.pack("=176xI", gso_bytes), 180)
    told = ctypes.create_string_buffer(256)
    into = ctypes.create_string_buffer(65536)
    given = ctypes.create_string_buffer(packet, len(packet))
    block = struct.pack(
        "=IIIIQQIIIIQQIII",
        program,
        0,
        len(packet),
        len(into),
        ctypes.addressof(given),
        ctypes.addressof(into),
        repeat,
        0,
        len(context),
        len(told),
        ctypes.addressof(context),
        ctypes.addressof(told),
        0,
        0,
        0,
    )
    attributes = ctypes.create_string_buffer(block, len(block))
    _system.call(_PROG_TEST_RUN, ctypes.addressof(attributes), len(block))
    result, _, size = struct.unpack_from("=III", attributes, 4)
    (duration,) = struct.unpack_from("=I", attributes, 36)
    (priority,) = struct.unpack_from("=I", told, 32)
    return Run(result, into.raw[:size], duration, priority)


def _capable() -> bool:
    """Whether this process has CAP_BPF and CAP_NET_ADMIN (linux/capability.h: 39 and 12)."""
    with open("/proc/self/status") as status:
        bits = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    return bool(bits >> 39 & bits >> 12 & 1)


def _sentence(error: OSError, what: str) -> str:
    if error.errno == errno.EPERM:
        if _capable():
            return (
                f"the process may not load {what}: something forbids bpf (with systemd: SystemCallFilter=bpf)"
            )
        return f"the process may not load {what}: it needs CAP_BPF and CAP_NET_ADMIN"
    if error.errno == errno.ENOSYS:
        return "this kernel has no bpf system call"
    return f"the kernel does not take {what}: {error.strerror}"
