"""Homes behind NAT routers, at the far side of an Internet that the namespace `public` plays.

    home-a ── router-a ──┐
                         ├── public ── sbc ── private
    home-b ── router-b ──┘

Both homes use the same private addresses, as homes do. A router is a namespace with nftables; its `Nat` says how it
translates. test_homes.py shows with plain sockets that each one does what it says.
"""

import contextlib
import socket
import struct
import subprocess
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.lab.border import Border
from tests.lab.lab import Lab
from tests.lab.namespaces import PUBLIC, SBC, SIDES, Namespaces
from tests.lab.talk import inside

LAN = "lan"
WAN = "wan"
HOUSE_ROUTER = "192.168.1.1"
HOUSE = ("192.168.1.10", "192.168.1.11", "192.168.1.12")
"""The addresses of the phones of every home, each in a namespace of its own."""


class Nat(Enum):
    """How a router translates UDP (RFC 4787). Each lets in only what answers (address- and port-dependent)."""

    CONE = "masquerade"
    """One external port for an internal one, whoever is called: endpoint-independent mapping."""
    SYMMETRIC = "masquerade fully-random"
    """Another external port, by chance, for every destination: address- and port-dependent mapping."""


@dataclass(frozen=True, slots=True)
class Lot:
    """Where a home meets the Internet: the provider's address there, those that it gives out, one at a time."""

    name: str
    provider: str
    given: tuple[str, ...]

    @property
    def router(self) -> str:
        """The namespace of the router."""
        return f"router-{self.name}"


# RFC 5737 leaves three networks for examples; the border's own one has the rest of the Internet.
LOTS = {
    "a": Lot("a", "198.51.100.1", ("198.51.100.2", "198.51.100.3", "198.51.100.4")),
    "b": Lot("b", "198.51.100.129", ("198.51.100.130", "198.51.100.131", "198.51.100.132")),
}
PREFIX_LENGTH = 25
_NETLINK_NETFILTER = 12

_RULES = """
add table ip home
delete table ip home
table ip home {{
  chain faults {{
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    jump faults
    ct state established,related accept
    iifname "lan*" oifname "wan" accept
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "wan" ct state new drop
  }}
  chain inward {{
    type nat hook prerouting priority dstnat; policy accept;
  }}
  chain outward {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan" {nat}
  }}
}}
"""


class Street(Namespaces):
    """The namespaces of the lab, and those of homes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._more: list[str] = []

    def add(self, name: str) -> None:
        """Make a namespace; it goes with the others."""
        _ip("netns", "add", self.full_name(name))
        self._more.append(name)
        self.run(name, "ip", "link", "set", "lo", "up")

    def cable(self, one: str, device: str, other: str, other_device: str) -> None:
        """Join two namespaces."""
        _ip(
            *("link", "add", device, "netns", self.full_name(one), "type", "veth"),
            *("peer", "name", other_device, "netns", self.full_name(other)),
        )
        self.run(one, "ip", "link", "set", device, "up")
        self.run(other, "ip", "link", "set", other_device, "up")

    def close(self) -> None:
        """End all processes and remove the namespaces."""
        super().close()
        for name in self._more:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self.full_name(name))
        self._more.clear()


class Home:
    """A home with its router. Every phone has a room, that is a namespace, and there one of the addresses HOUSE."""

    def __init__(self, street: Street, lot: Lot, nat: Nat = Nat.CONE, mapping_s: int | None = None) -> None:
        self.router = lot.router
        self.address = lot.given[0]
        """The public address of the moment."""
        self._street = street
        self._lot = lot
        self._leases = 0
        self._rooms: list[int] = []
        self._build()
        self.nat = nat
        self.translate(nat)
        if mapping_s is not None:
            self.forget_after(mapping_s)

    def room(self, number: int = 0) -> str:
        """The namespace of a phone, whose address is HOUSE[number]."""
        name = f"home-{self._lot.name}{number}"
        if number not in self._rooms:
            self._rooms.append(number)
            self._furnish(name, number)
        return name

    def translate(self, nat: Nat) -> None:
        """Set up the router; rules for faults are gone after it."""
        self.nat = nat
        self._nft(_RULES.format(nat=nat.value))

    def forget_after(self, seconds: int) -> None:
        """How long a mapping lives without traffic (RFC 4787 s.4.3 wants 120 s at least; many give 30)."""
        names = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
        self._street.run(self.router, "sysctl", "-qw", *(f"net.netfilter.{name}={seconds}" for name in names))

    def reboot(self, keep_address: bool = False) -> None:
        """The router starts anew: every mapping is gone, and the provider gives it another address."""
        run = self._street.run
        inside(self._street, self.router, _forget_all)
        run(self.router, "ip", "address", "del", f"{self.address}/{PREFIX_LENGTH}", "dev", WAN)
        if not keep_address:
            self._leases += 1
            self.address = self._lot.given[self._leases % len(self._lot.given)]
        self._lease()

    def drop(self, match: str) -> None:
        """Drop what passes the router and matches, as a firewall that is set too tight."""
        self._nft(f"add rule ip home faults {match} counter drop")

    def pass_all(self) -> None:
        """Take back all `drop`s."""
        self._nft("flush chain ip home faults")

    def redirect(self, match: str, port: int) -> None:
        """Lead what comes from the phones and matches to a proxy of the router itself."""
        self._nft(f'add rule ip home inward iifname "{LAN}*" {match} redirect to :{port}')

    def help_sip(self) -> None:
        """Switch the kernel's SIP ALG on. Raises CalledProcessError where the kernel has none."""
        self._nft(
            'add ct helper ip home alg { type "sip" protocol udp; }\n'
            "add chain ip home tracked { type filter hook prerouting priority filter; policy accept; }\n"
            'add rule ip home tracked udp dport 5060 ct helper set "alg"'
        )

    def mappings(self) -> list[str]:
        """The connections that the router knows, a line each."""
        return self._street.run(self.router, "cat", "/proc/net/nf_conntrack").splitlines()

    def _build(self) -> None:
        street, lot = self._street, self._lot
        street.add(self.router)
        street.cable(PUBLIC, f"to-{lot.router}", self.router, WAN)
        street.run(
            PUBLIC, "ip", "address", "add", f"{lot.provider}/{PREFIX_LENGTH}", "dev", f"to-{lot.router}"
        )
        street.run(self.router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._lease()

    def _furnish(self, name: str, number: int) -> None:
        """A cable of its own for each room: its two ends know each other's address and nothing else."""
        street, device, phone = self._street, f"{LAN}{number}", HOUSE[number]
        street.add(name)
        street.cable(name, "eth0", self.router, device)
        street.run(self.router, "ip", "address", "add", HOUSE_ROUTER, "peer", phone, "dev", device)
        street.run(name, "ip", "address", "add", phone, "peer", HOUSE_ROUTER, "dev", "eth0")
        street.run(name, "ip", "route", "add", "default", "via", HOUSE_ROUTER)

    def _lease(self) -> None:
        run = self._street.run
        run(self.router, "ip", "address", "add", f"{self.address}/{PREFIX_LENGTH}", "dev", WAN)
        run(self.router, "ip", "route", "replace", "default", "via", self._lot.provider)

    def _nft(self, rules: str) -> None:
        self._street.run(self.router, "nft", rules)


class Village(Lab):
    """A lab whose public side is an Internet with homes on it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.street = Street(directory)
        self.namespaces = self.street
        self.homes: dict[str, Home] = {}

    def __enter__(self) -> "Village":
        super().__enter__()
        # The border knows one way into the Internet; the Internet knows where the homes are.
        self.street.run(PUBLIC, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.street.run(SBC, "ip", "route", "add", "default", "via", SIDES[PUBLIC].peer)
        return self

    def restart(self, yaml: str) -> Border:
        """A border in place of the one that has died; what is recorded goes on."""
        self._border = Border(self.namespaces, yaml)
        return self._border

    def home(self, name: str, nat: Nat = Nat.CONE, mapping_s: int | None = None) -> Home:
        """Build a home."""
        home = self.homes[name] = Home(self.street, LOTS[name], nat, mapping_s)
        return home


def _forget_all() -> None:
    """Delete every connection that the kernel tracks in this namespace, as `conntrack -F` does."""
    # linux/netfilter/nfnetlink.h: a message of subsystem CTNETLINK (1), CT_DELETE (2), without a filter.
    request_and_ack = 0x01 | 0x04
    body = struct.pack("=BBH", 0, 0, 0)
    message = struct.pack("=IHHII", 16 + len(body), 1 << 8 | 2, request_and_ack, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.sendto(message, (0, 0))
        answer = sock.recv(4096)
    (error,) = struct.unpack_from("=i", answer, 16)
    if error:
        raise OSError(-error, "the router does not forget")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
