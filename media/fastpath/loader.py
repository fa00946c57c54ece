"""Loads the kernel program and attaches it where media comes in: the part of the process that owns the workers.

Nothing is pinned: when the process ends, however it ends, its TCX links end with it and the packets come to the
sockets. A filter by clsact (before Linux 6.6) would stay, but forwards nothing once the leases of the workers are over;
the next process takes it away.
"""

import contextlib
import errno
import os
import secrets
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from media.fastpath import bpf, elf, table
from media.fastpath.build import OBJECT
from media.fastpath.ipsec import Policies
from media.fastpath.netlink import OF_INTERFACES, Changes, Interface, Netlink, owner_of

NAME = "sbc_rtp"
WORKERS_MAX = 1024


class Unavailable(Exception):
    """There is no fast path; the text says why, for people."""


class Loaded:
    """The kernel program and its maps, attached to nothing. Raises Unavailable."""

    def __init__(self, path: Path = OBJECT) -> None:
        self._maps: dict[str, bpf.Map] = {}
        self.program = -1
        if _clock_offset():
            raise Unavailable("the clock of this process is not the kernel's own (a time namespace)")
        try:
            program = elf.read(path.read_bytes())
            for definition in program.maps:
                self._maps[definition.name] = bpf.create_map(definition)
            self.program = bpf.load(program, self._maps, NAME)
            self.flows = self._maps["flows"]
            self.leases = self._maps["leases"]
            if (self.flows.key_bytes, self.flows.value_bytes) != (table.KEY_BYTES, table.FLOW_BYTES):
                raise Unavailable(f"{path.name} is of another version than the rest of this installation")
        except FileNotFoundError:
            raise Unavailable(
                f"{path.name} is not there: it is compiled when the package is built where clang is installed"
            ) from None
        except OSError as error:
            self.close()
            raise Unavailable(f"{path.name} cannot be read: {error.strerror}") from error
        except elf.ObjectError as error:
            raise Unavailable(f"{path.name} is damaged: {error}") from error
        except KeyError as error:
            self.close()
            raise Unavailable(f"{path.name} has no map {error}") from error
        except (bpf.Refused, Unavailable) as error:
            self.close()
            raise Unavailable(str(error)) from error

    def close(self) -> None:
        """Free everything."""
        if self.program >= 0:
            os.close(self.program)
        for each in self._maps.values():
            each.close()
        self.program, self._maps = -1, {}


class FastPath:
    """The kernel program on the interfaces that have `hosts`. Raises Unavailable when it cannot run on any of them."""

    def __init__(self, hosts: Iterable[str], path: Path = OBJECT, tcx: bool = True) -> None:
        self._hosts = tuple(hosts)
        self._tcx = tcx
        self._changes: Changes | None = None
        self._links: dict[int, int] = {}
        self._filters: list[int] = []
        self._mark: _Mark | None = None
        self._next_worker = 0
        self._employed: set[int] = set()
        self.policies: Policies | None = None
        """The IPsec policies of this host, of which the workers must be told; None: this kernel has none."""
        self.interfaces: tuple[str, ...] = ()
        self.without: tuple[str, ...] = ()
        """Why some of the addresses do without."""
        self._loaded = Loaded(path)
        try:
            self.policies = _policies()
            self._changes = Changes(groups=OF_INTERFACES)
            self._attach()
            if not self.interfaces:
                raise Unavailable("; ".join(self.without) or "there is no address to attach it to")
        except BaseException:
            self.close()
            raise

    @property
    def flows(self) -> bpf.Map:
        """The table of flows."""
        return self._loaded.flows

    @property
    def leases(self) -> bpf.Map:
        """Until when each worker's flows are good."""
        return self._loaded.leases

    @property
    def indexes(self) -> tuple[int, ...]:
        """The interfaces that it is attached to."""
        return (*self._links, *self._filters)

    @property
    def way(self) -> str:
        """How it is attached, for people."""
        return "clsact" if self._filters else "tcx"

    def fileno(self) -> int:
        """The descriptor that becomes readable when `follow` may find something."""
        assert self._changes is not None
        return self._changes.fileno()

    def follow(self) -> bool:
        """Go where the addresses are now: interfaces come and go, addresses move. Whether `indexes` are others then."""
        assert self._changes is not None
        before = self.indexes
        if self._changes.happened():
            # What cannot be found out now will be with the next change.
            with contextlib.suppress(OSError):
                self._attach()
        return self.indexes != before

    def employ(self) -> int:
        """A number for a new worker, that none has and none of the last thousand had."""
        number = self._next_worker
        while number in self._employed:
            number = (number + 1) % WORKERS_MAX
        self._employed.add(number)
        self._next_worker = (number + 1) % WORKERS_MAX
        return number

    def dismiss(self, worker: int) -> int:
        """The worker is dead: from now on its packets go to the sockets. How many flows it had."""
        self._employed.discard(worker)
        leases, flows = self.leases, self.flows
        leases.value.raw = bytes(leases.value_bytes)
        # Its flows are deleted all the same.
        with contextlib.suppress(OSError):
            leases.put(worker.to_bytes(4, sys.byteorder))
        stale = [key for key, flow in flows.items() if table.worker_of(flow) == worker]
        flows.delete_all(stale)
        return len(stale)

    def close(self) -> None:
        """Detach and free everything."""
        if self.indexes:
            netlink = Netlink()
            for ifindex in self.indexes:
                self._detach(netlink, ifindex)
            netlink.close()
        for each in (self._mark, self.policies, self._changes):
            if each is not None:
                each.close()
        self._mark, self.policies, self._changes = None, None, None
        self._loaded.close()

    def _attach(self) -> None:
        suited, without = survey(self._hosts)
        names: list[str] = []
        netlink = Netlink()
        try:
            for ifindex in set(self.indexes).difference(interface.ifindex for interface in suited):
                self._detach(netlink, ifindex)
            for interface in suited:
                try:
                    if interface.ifindex not in self.indexes:
                        self._attach_to(netlink, interface.ifindex)
                    names.append(interface.name)
                except OSError as error:
                    without.append(f"{interface.name} does not take the kernel program: {error.strerror}")
        finally:
            netlink.close()
        self.interfaces, self.without = tuple(names), tuple(without)

    def _attach_to(self, netlink: Netlink, ifindex: int) -> None:
        if self._tcx:
            try:
                self._links[ifindex] = bpf.link(self._loaded.program, ifindex)
                return
            except OSError as error:
                # Before Linux 6.6 there is no such kind of link.
                if error.errno != errno.EINVAL:
                    raise
        self._mark = self._mark or _Mark()
        for handle in netlink.filters(ifindex, NAME):
            # Of a process that was killed: it forwards nothing any more, but nobody else will take it away.
            if not _Mark.is_of_somebody(handle):
                netlink.delete_filter(ifindex, handle)
        netlink.add_filter(ifindex, self._loaded.program, NAME, self._mark.number)
        self._filters.append(ifindex)

    def _detach(self, netlink: Netlink, ifindex: int) -> None:
        if ifindex in self._links:
            os.close(self._links.pop(ifindex))
            return
        self._filters.remove(ifindex)
        # Where the interface is gone, so is the filter.
        with contextlib.suppress(OSError):
            if self._mark is not None:
                netlink.delete_filter(ifindex, self._mark.number)


class _Mark:
    """A number for what would outlive this process, and whether whose it is lives.

    That is shown by a socket with an abstract name (unix(7)), which like an interface belongs to a network namespace:
    a process id may be that of another process in another container.
    """

    def __init__(self) -> None:
        while True:
            self.number = secrets.randbelow(0xFFFFFFFE) + 1
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                self._sock.bind(self._name(self.number))
                return
            except OSError as error:
                self._sock.close()
                if error.errno != errno.EADDRINUSE:
                    raise

    def close(self) -> None:
        """The number is nobody's from now on."""
        self._sock.close()

    @classmethod
    def is_of_somebody(cls, number: int) -> bool:
        """Whether the process with this number lives."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect(cls._name(number))
            except ConnectionRefusedError:
                return False
            except OSError:
                pass  # Whatever else it is, somebody is there.
        return True

    @staticmethod
    def _name(number: int) -> str:
        return f"\0{NAME}.{number:08x}"


def _policies() -> Policies | None:
    """The IPsec policies of this host, None of a kernel that has none."""
    try:
        return Policies()
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT):
            return None
        raise Unavailable(f"the kernel does not tell its IPsec policies: {error.strerror}") from error


def _clock_offset() -> bool:
    """Whether our CLOCK_MONOTONIC differs from that of the kernel program (time_namespaces(7))."""
    try:
        lines = Path("/proc/self/timens_offsets").read_text().splitlines()
    except OSError:
        return False  # Before Linux 5.6 there were none.
    return any(line.split()[1:] != ["0", "0"] for line in lines if line.startswith("monotonic"))


def survey(hosts: Iterable[str]) -> tuple[list[Interface], list[str]]:
    """The interfaces that have these addresses and can have the program, and why others cannot."""
    netlink = Netlink()
    try:
        interfaces, owners = netlink.interfaces(), netlink.owners()
    finally:
        netlink.close()
    suited: dict[int, Interface] = {}
    without: list[str] = []
    for host in dict.fromkeys(hosts):
        interface = interfaces.get(owner_of(owners, host))
        if interface is None:
            without.append(f"no interface has the address {host}")
        elif not interface.ethernet:
            without.append(f"{interface.name}, which has {host}, is not Ethernet")
        else:
            suited[interface.ifindex] = interface
    return list(suited.values()), without


def obstacle(path: Path = OBJECT) -> str | None:
    """Why there can be no fast path here whatever the addresses, None if there can: loads the program and frees it."""
    try:
        Loaded(path).close()
    except Unavailable as error:
        return str(error)
    return None


def choose(mode: str, hosts: Iterable[str], path: Path = OBJECT) -> FastPath | str:
    """The fast path for `media.fastpath`: off, auto or on; or why there is none. On is for all
    hosts: else it raises Unavailable."""
    if mode == "off":
        return ""
    try:
        found = FastPath(hosts, path)
    except Unavailable as error:
        if mode == "on":
            raise
        return str(error)
    if mode == "on" and found.without:
        found.close()
        raise Unavailable("; ".join(found.without))
    return found
