"""Where packets are lost that never arrived, by the kernel's own counters, so that the relay's share of it is known.

| place | is |
| --- | --- |
| `sent` | refused to the sender's own send call |
| `backlog` | a processor's queue of packets that came by a cable (net.core.netdev_max_backlog): it had no time |
| `cable` | dropped by a cable's device for another reason |
| `relay queue` | the receive queue of one of the relay's sockets was full |
| `relay send` | refused to the relay's send call, or dropped by the kernel on the way out of it |
| `sink` | the receive queue of one of the phones' sockets was full |
| `relay` | what is left: the relay got it, or should have |
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.media.place import Place
from tests.lab.namespaces import PRIVATE, PUBLIC, SBC

SOFTNET = Path("/proc/net/softnet_stat")
OWN = "relay"
"""The place of what nobody else has lost."""


def count(place: Place, phones: Mapping[str, int] | None = None, relay: Sequence[int] = ()) -> dict[str, int]:
    """What has been dropped so far, by place. Who has no time for more processes names those that run there already."""
    udp, devices = {}, 0
    running = dict(phones or {}) | ({SBC: relay[0]} if relay else {})
    for namespace in (PUBLIC, SBC, PRIVATE):
        if namespace in running:
            told = "".join(
                Path(f"/proc/{running[namespace]}/net/{each}").read_text() for each in ("snmp", "dev")
            )
        else:
            told = place.run(namespace, "cat", "/proc/net/snmp", "/proc/net/dev")
        udp[namespace] = _udp(told)
        devices += _dropped(told)
    # A queue of the processor that is full is counted by the device that sent as well (veth).
    backlog = sum(int(line.split()[1], 16) for line in SOFTNET.read_text().splitlines())
    return {
        "backlog": backlog,
        "cable": max(0, devices - backlog),
        "relay queue": udp[SBC]["RcvbufErrors"],
        "relay send": udp[SBC]["SndbufErrors"],
        "sink": udp[PUBLIC]["RcvbufErrors"] + udp[PRIVATE]["RcvbufErrors"],
    }


def places(before: dict[str, int], after: dict[str, int], refused: int, lost: int) -> dict[str, int]:
    """Where `lost` packets were lost; only places where any were."""
    found = {"sent": refused} | {name: after[name] - before[name] for name in after}
    found = {name: number for name, number in found.items() if number}
    rest = lost - sum(found.values())
    return found | ({OWN: rest} if rest > 0 else {})


def _udp(told: str) -> dict[str, int]:
    names, numbers = (line.split()[1:] for line in told.splitlines() if line.startswith("Udp:"))
    return dict(zip(names, map(int, numbers), strict=True))


def _dropped(told: str) -> int:
    total = 0
    for line in told.splitlines():
        name, _, figures = line.partition(":")
        fields = figures.split()
        # Received: bytes, packets, errors, dropped and four more; then the same of what was sent.
        if len(fields) == 16 and name.strip() != "lo":
            total += int(fields[3]) + int(fields[11])
    return total
