"""baresip as a real phone: its own audio is a WAV file, what it hears is recorded.

Debian's baresip (1.0) takes aufile as source; as player it needs a device, and aubridge is one that needs no
hardware. The module sndfile records what was decoded. Commands go over ctrl_tcp: JSON in netstrings.
"""

import array
import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.namespaces import SIDES, Namespaces, Process
from tests.lab.sound import heard, read_wav, share, tone, write_wav

MODULES = Path("/usr/lib/baresip/modules")
TONE_S = 20.0

_CONFIG = """\
poll_method epoll
sip_listen {listen}
net_interface eth0
audio_source aufile,{tone}
audio_player aubridge,played
audio_alert aubridge,alert
ausrc_srate 8000
auplay_srate 8000
ausrc_format s16
auplay_format s16
auenc_format s16
audec_format s16
audio_channels 1
audio_buffer 20-160
rtp_ports 40000-40100
rtcp_mux no
jitter_buffer_type fixed
jitter_buffer_delay 1-10
snd_path {directory}
ctrl_tcp_listen 127.0.0.1:{control}
module_path {modules}
module g711.so
module aufile.so
module aubridge.so
module sndfile.so
module_tmp uuid.so
module_tmp account.so
module_app ctrl_tcp.so
module_app menu.so
"""


class Phone:
    """One baresip. `uri` is its own address; an incoming call is answered by itself."""

    def __init__(
        self,
        namespaces: Namespaces,
        side: str,
        user: str,
        hz: int,
        *,
        family: int = 4,
        transport: str = "udp",
        codec: str = "PCMA",
        proxy: str | None = None,
        control: int = 4444,
    ) -> None:
        self.hz = hz
        self._namespaces = namespaces
        self._side = side
        self._control = control
        self._transport = transport
        host = SIDES[side].peer if family == 4 else f"[{SIDES[side].peer6}]"
        self.host = host
        self.directory = namespaces.directory / f"phone-{user}"
        self.directory.mkdir()
        write_wav(self.directory / "tone.wav", tone(hz, TONE_S))
        outbound = f';outbound="sip:{proxy};transport={transport}"' if proxy else ""
        (self.directory / "config").write_text(
            _CONFIG.format(
                listen=f"{host}:5060",
                tone=self.directory / "tone.wav",
                directory=self.directory,
                control=control,
                modules=MODULES,
            )
        )
        (self.directory / "accounts").write_text(
            f"<sip:{user}@{host}:5060;transport={transport}>;regint=0;answermode=auto"
            f";audio_codecs={codec}/8000/1{outbound}\n"
        )
        (self.directory / "contacts").write_text("")
        self.process: Process = namespaces.start(
            side, f"baresip-{user}", ["baresip", f"-{family}", "-f", str(self.directory), "-v"]
        )
        self.process.await_text("baresip is ready")

    def dial(self, uri: str) -> None:
        """Call `uri`; returns when the call is up."""
        before = self.process.text.count("Call established")
        self.command("dial", uri)
        self.await_(lambda: self.process.text.count("Call established") > before, f"call to {uri}")

    def hang_up(self) -> None:
        """End the call."""
        self.command("hangup")

    def hold(self) -> None:
        """Put the call on hold (re-INVITE)."""
        self.command("hold")

    def resume(self) -> None:
        """Take it back."""
        self.command("resume")

    def await_established(self, count: int = 1) -> None:
        """Wait until `count` calls have been established in all."""
        self.await_(lambda: self.process.text.count("Call established") >= count, "an incoming call")

    def await_ended(self, count: int = 1) -> None:
        """Wait until `count` calls are over."""
        self.await_(lambda: self.process.text.count("audio: destroyed") >= count, "the end of the call")

    def await_(self, met: Callable[[], bool], what: str, timeout_s: float = 40.0) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + timeout_s
        while not met():
            if time.monotonic() > deadline or not self.process.running:
                raise AssertionError(f"{self.process.name}: no sign of {what}:\n{self.process.text[-2500:]}")
            time.sleep(0.05)

    def recording(self) -> "tuple[int, array.array[int]]":
        """(rate, samples) of everything heard so far, the latest call's."""
        files = sorted(self.directory.glob("dump-*-dec.wav"))
        if not files:
            raise AssertionError(f"{self.process.name} has recorded nothing:\n{self.process.text[-2500:]}")
        return read_wav(files[-1])

    def hears(self, hz: float) -> float:
        """The share of a tone in the loudest second of the recording."""
        rate, samples = self.recording()
        return heard(samples, hz, rate)

    @staticmethod
    def hears_in(samples: "array.array[int]", rate: int, hz: float) -> float:
        """The share of a tone in these samples as a whole."""
        return share(samples, hz, rate)

    def command(self, command: str, parameters: str = "") -> None:
        """One command of baresip's menu. ctrl_tcp serves the loopback of its own namespace: nc is not at hand."""
        request = json.dumps({"command": command, "params": parameters, "token": "lab"})
        self._namespaces.run(
            self._side,
            "python3",
            "-c",
            _SEND,
            str(self._control),
            f"{len(request)}:{request},",
            timeout_s=40,
        )


_SEND = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as wire:
    wire.sendall(sys.argv[2].encode())
    wire.settimeout(1)
    answer = b""
    try:
        while b'"response"' not in answer:
            chunk = wire.recv(65536)
            if not chunk:
                break
            answer += chunk
    except TimeoutError:
        pass
    print(answer.decode(errors="replace"))
"""
