"""`Lab`: the namespaces with an SBC in the middle, recorded on both sides, and what every call in it must keep."""

from pathlib import Path

from tests.lab import sipp
from tests.lab.border import Border, configuration
from tests.lab.capture import Capture, leaks, secrets_of
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES, Namespaces
from tests.lab.phone import Phone
from tests.lab.sound import heard, tone, write_alaw

HZ = {PUBLIC: 400, PRIVATE: 1000}
"""The tone that the user agents of a side send. 20 ms hold whole periods of both."""
OTHER = {PUBLIC: PRIVATE, PRIVATE: PUBLIC}
FOUND = 0.9
"""Share of the power from which on a tone counts as found, and below 1 % of which as absent."""


class Lab:
    """Context manager. `start` brings up the SBC; user agents are started on either side of it."""

    def __init__(self, directory: Path) -> None:
        self.namespaces = Namespaces(directory)
        self.directory = directory
        self._captures: dict[str, Capture] = {}
        self._border: Border | None = None
        self._audio: dict[str, Path] = {}

    def __enter__(self) -> "Lab":
        self.namespaces.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.namespaces.close()

    def start(self, yaml: str | None = None) -> Border:
        """Start recording on both sides, and the SBC."""
        self._captures = {side: Capture(self.namespaces, side) for side in SIDES}
        self._border = Border(self.namespaces, yaml or configuration(self.namespaces))
        return self._border

    @property
    def border(self) -> Border:
        """The running SBC."""
        assert self._border is not None, "start() comes first"
        return self._border

    def callee(
        self,
        side: str,
        scenario: str = "uas_call",
        *,
        transport: str = "udp",
        family: int = 4,
        number: int = 0,
        port: int = 5060,
        calls: int = 1,
        audio: bool = False,
        status: int = 486,
        extra: str = "",
        hold_ms: int = 500,
        ring_ms: int = 200,
    ) -> sipp.Sipp:
        """A SIPp callee on a side, the `number`-th user agent of it."""
        words = sipp.Words(
            agent=f"callee-of-{side}/{number}",
            caller="bob",
            status=status,
            extra=extra,
            hold_ms=hold_ms,
            ring_ms=ring_ms,
            audio=self._tone_of(side) if audio else None,
        )
        return sipp.callee(
            self.namespaces,
            side,
            scenario,
            local=self.host(side, family, number),
            transport=transport,
            port=port,
            calls=calls,
            words=words,
            name=f"{scenario}-{side}-{number}",
        )

    def caller(
        self,
        side: str,
        scenario: str = "uac_call",
        *,
        transport: str = "udp",
        family: int = 4,
        dialled: str = "1000",
        calls: int = 1,
        rate: int = 10,
        limit: int | None = None,
        audio: bool = False,
        status: int = 486,
        hold_ms: int = 500,
        port: int = 5062,
    ) -> sipp.Sipp:
        """A SIPp caller on a side, that calls the border."""
        words = sipp.Words(
            agent=f"caller-of-{side}",
            caller="alice",
            status=status,
            hold_ms=hold_ms,
            audio=self._tone_of(side) if audio else None,
        )
        return sipp.caller(
            self.namespaces,
            side,
            scenario,
            self.border_at(side, family),
            local=self.host(side, family),
            number=dialled,
            transport=transport,
            port=port,
            calls=calls,
            rate=rate,
            limit=limit,
            words=words,
            name=f"{scenario}-{side}",
        )

    def phone(self, side: str, user: str, *, family: int = 4, transport: str = "udp") -> Phone:
        """A baresip on a side, with the tone of this side for a voice, and the border as its proxy."""
        proxy = self.border_at(side, family)
        return Phone(self.namespaces, side, user, HZ[side], family=family, transport=transport, proxy=proxy)

    def host(self, side: str, family: int = 4, number: int = 0) -> str:
        """The address of a user agent."""
        return SIDES[side].peers[number] if family == 4 else SIDES[side].peers6[number]

    def border_at(self, side: str, family: int = 4) -> str:
        """host:port of the border as a side sees it."""
        return f"{SIDES[side].border}:5060" if family == 4 else f"[{SIDES[side].border6}]:5060"

    def finish(self, refused: int = 0) -> None:
        """After the last call: nothing is left in the SBC, and nothing of one side was seen on the other.

        `refused`: INVITEs that a user agent refused over UDP, see Border.leftovers.
        """
        left = self.border.leftovers(refused=refused)
        assert left == {}, f"left over after the last call: {left}\n{self.border.process.text[-3000:]}"
        self.stop_recording()
        leaked = self.leaks()
        assert not leaked, "\n".join(leaked)
        records = self.border.cdr.read_text()
        assert records and records.count('"leaks":0') == len(records.splitlines()), records
        assert " ERROR " not in self.border.process.text, self.border.process.text[-3000:]

    def stop_recording(self) -> None:
        """From now on the captures can be read."""
        for capture in self._captures.values():
            capture.stop()

    def leaks(self) -> list[str]:
        """Everything of one side that was seen on the other: addresses, tags, Call-IDs, user agents and so on."""
        found: list[str] = []
        for side, other in OTHER.items():
            network = SIDES[other]
            secrets = {network.border, network.border6, *network.peers, *network.peers6}
            secrets |= secrets_of(self._sent_by_peers(other)) | {f"{other}.border.example"}
            # Two phones of one make have the same User-Agent: what this side says by itself is no secret here.
            secrets -= secrets_of(self._sent_by_peers(side))
            found.extend(
                f"{other} seen on {side}: {leak}" for leak in leaks(self._captures[side].packets(), secrets)
            )
        return found

    def assert_heard(self, family_public: int = 4, family_private: int = 4) -> None:
        """Each side's tone arrived at the user agent of the other, and only that one."""
        for side, family in ((PUBLIC, family_public), (PRIVATE, family_private)):
            samples = self._captures[side].audio(self.host(side, family))
            theirs, own = heard(samples, HZ[OTHER[side]]), heard(samples, HZ[side])
            assert theirs > FOUND, (
                f"{side} does not hear {OTHER[side]}: {len(samples)} samples, share {theirs:.2f}"
            )
            assert own < 0.01, f"{side} hears itself"

    def messages(self, side: str) -> list[str]:
        """SIP messages seen on a side."""
        return self._captures[side].messages()

    def _sent_by_peers(self, side: str) -> list[str]:
        own = {SIDES[side].border, SIDES[side].border6}
        return [
            packet.payload.decode(errors="replace")
            for packet in self._captures[side].packets()
            if packet.source[0] not in own and b"SIP/2.0" in packet.payload[:2000]
        ]

    def _tone_of(self, side: str) -> Path:
        if side not in self._audio:
            self._audio[side] = write_alaw(self.directory / f"{side}.alaw", tone(HZ[side], 10.0))
        return self._audio[side]
