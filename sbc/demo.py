"""`make run`: an SBC on loopback, two built-in phones, one call through it, and everything that can be seen of it.

The caller stands in the first network of the configuration, the callee plays the server of the trunk that the
call is routed to. Both are real SIP user agents on real sockets, and all that passes between them passes the SBC.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.load import examine
from config.model import Config, Network, Trunk
from sbc.log import LogFile
from sbc.operator import Operator
from sbc.phone import CallFailed, Phone, Talk
from sbc.preflight import StartError
from sbc.server import Server
from sbc.tone import PTIME_MS, Heard
from signaling.flow import Address, host_port

QUICKSTART = "quickstart.yaml"
CALLER_HOST = "127.0.1.2"
CALLER_HZ = 600
CALLEE_HZ = 1000
# Multiples of 50 Hz: 20 ms hold whole periods, so that one tone has no share in the other.
LOST_SHARE = 0.02
"""More loss than this on loopback is a fault of ours."""
SETTLE_S = 0.3
"""Time for the last packets and the answer to BYE."""
READY_S = 10.0

Print = Callable[[str], None]


class DemoError(Exception):
    """The demonstration cannot be shown; the text says why."""


EXPECTED = (DemoError, StartError, OSError)


@dataclass(frozen=True, slots=True)
class Scene:
    """Who stands where: addresses of the phones and of the SBC, as the configuration has them."""

    outside: Network
    inside: Network
    trunk: Trunk
    caller: Address
    callee: Address
    sbc: Address


def scene_of(config: Config) -> Scene:
    """The parts of the demonstration in a configuration. Raises DemoError when there is no place for two phones."""
    for route in config.routes:
        trunk = config.trunks.get(route.to[0]) if route.to else None
        if trunk is None:
            continue
        origin = config.trunks.get(route.from_)
        outside = _outside(config, trunk, route.from_ if origin is None else origin.network)
        if outside is not None and outside.name != trunk.network:
            break
    else:
        raise DemoError(f"{config.path}: no route leads from one network to a trunk in another; write one")
    port = next((listen.port for listen in outside.listen if listen.transport == "udp"), None)
    if port is None:
        raise DemoError(
            f"{config.path}: network {outside.name} has no UDP listener for the caller's phone; write one"
        )
    caller = (CALLER_HOST, 0) if origin is None else _address_of(origin)
    sbc = (outside.address, port)
    return Scene(outside, config.networks[trunk.network], trunk, caller, _address_of(trunk), sbc)


def _outside(config: Config, trunk: Trunk, name: str) -> Network | None:
    if name != "any":
        return config.networks[name]
    return next((network for network in config.networks.values() if network.name != trunk.network), None)


def _address_of(trunk: Trunk) -> Address:
    return trunk.servers[0].host, trunk.servers[0].port or 5060


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the phones heard: `a_to_b` by the callee, `b_to_a` by the caller; `expected` packets each way."""

    a_to_b: Heard
    b_to_a: Heard
    expected: int
    seen_by_a: Sequence[bytes]
    seen_by_b: Sequence[bytes]

    @property
    def good(self) -> bool:
        """Whether both tones arrived whole."""
        return all(
            heard.found and heard.packets >= self.expected * (1 - LOST_SHARE)
            for heard in (self.a_to_b, self.b_to_a)
        )


async def place_call(caller: Phone, callee: Phone, scene: Scene, seconds: float, say: Print) -> Outcome:
    """One call of `seconds` from `caller` through the SBC to `callee`. Raises CallFailed."""
    uri = f"sip:{callee.user}@{host_port(scene.sbc)}"
    say(f"{caller.user} calls {uri}")
    talk = await caller.dial(uri, scene.sbc, lambda progress: say(f"  {caller.user} hears: {progress}"))
    async with asyncio.timeout(5):
        other = await callee.incoming.get()
    say(f"  answered: both send a tone for {seconds:g} s ({CALLER_HZ} Hz and {CALLEE_HZ} Hz)")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(talk.converse(seconds))
        tasks.create_task(other.converse(seconds))
        tasks.create_task(_show_progress(talk, other, seconds, say))
    await asyncio.sleep(SETTLE_S)
    await talk.hang_up()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await other.ended.wait()
    say(f"  {caller.user} has hung up")
    return Outcome(
        other.heard(CALLER_HZ),
        talk.heard(CALLEE_HZ),
        round(seconds * 1000 / PTIME_MS),
        tuple(caller.seen),
        tuple(callee.seen),
    )


async def _show_progress(talk: Talk, other: Talk, seconds: float, say: Print) -> None:
    for second in range(1, int(seconds) + 1):
        await asyncio.sleep(1)
        say(
            f"  {second:2d} s: {other.ear.packets} packets from A arrived at B,"
            f" {talk.ear.packets} from B at A"
        )


def leaks(outcome: Outcome, caller: Phone, callee: Phone) -> list[str]:
    """What of one phone's network the other phone could see in its SIP: nothing, if the border does its work."""
    found = []
    for name, seen, other in (
        ("A", outcome.seen_by_a, callee), ("B", outcome.seen_by_b, caller),
    ):  # fmt: skip
        host = other.host.encode()
        # The user agent names the phone, and the Call-ID its host.
        for what, secret in (("address", host), ("user agent", f"built-in phone {other.user}".encode())):
            count = sum(secret in data for data in seen)
            if count:
                found.append(f"{name} saw the other side's {what} in {count} of {len(seen)} messages")
    return found


def audio_line(name: str, heard: Heard, expected: int) -> str:
    """One direction for people."""
    tone = f"{heard.hz} Hz tone {'found' if heard.found else 'NOT found'} ({heard.share:.0%} of the power)"
    return (
        f"  {name}: {heard.packets} of {expected} packets, {heard.lost} lost, jitter"
        f" {heard.jitter_ms:.1f} ms, {tone}"
    )


async def perform(
    config: Config, folder: str, once: bool, seconds: float, width: int, plain: bool, say: Print
) -> int:
    """The whole demonstration; the exit status. What it writes goes into `folder`."""
    scene = scene_of(config)
    server = Server(with_demo_settings(config, folder), adapt=lambda fresh: with_demo_settings(fresh, folder))
    this = asyncio.current_task()
    if this is not None:
        # `kill` ends it like Ctrl-C: no worker process and no file is left behind.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.run())
        try:
            await _until_ready(server, serving)
            say(
                f"SBC: {scene.outside.name} {host_port(scene.sbc)} <-> {scene.inside.name}"
                f" {scene.inside.address}"
            )
            status = await _call_and_show(server, scene, seconds, width, plain, say)
            if not once:
                call = server.calls.recent[-1].id if server.calls.recent else "CALL"
                say(what_next(scene, server.config, call, program(sys.argv[0])))
                await _serve_on(scene, say)
        finally:
            server.stop()
            server.stop()
    return status


async def _until_ready(server: Server, serving: "asyncio.Task[None]") -> None:
    waiting = asyncio.ensure_future(server.ready.wait())
    try:
        await asyncio.wait({waiting, serving}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if not server.ready.is_set() and not serving.done():
        raise DemoError(f"the SBC was not ready after {READY_S:g} s")
    if serving.done():
        # It did not come up: its own error says why.
        serving.result()


async def _call_and_show(
    server: Server, scene: Scene, seconds: float, width: int, plain: bool, say: Print
) -> int:
    def number() -> int:
        return secrets.randbits(32)

    async with (
        Phone("alice", *scene.caller, CALLER_HZ, number) as caller,
        Phone("bob", *scene.callee, CALLEE_HZ, number) as callee,
    ):
        say(f"phones: alice {host_port(caller.address)} ({scene.outside.name}), bob {host_port(callee.address)}"
            f" ({scene.inside.name})")  # fmt: skip
        try:
            outcome = await place_call(caller, callee, scene, seconds, say)
        except (CallFailed, TimeoutError) as error:
            say(f"the call failed: {error or 'the callee was never rung'}")
            outcome = None
        await asyncio.sleep(SETTLE_S)
        record = server.calls.recent[-1] if server.calls.recent else None
        if record is not None:
            say("")
            explanation = await Operator(server).explanation(record)
            say(explanation.text(width, plain))
        if outcome is None:
            return 1
        say("")
        say("Heard by the phones themselves")
        say(audio_line("A -> B", outcome.a_to_b, outcome.expected))
        say(audio_line("B -> A", outcome.b_to_a, outcome.expected))
        seen = leaks(outcome, caller, callee)
        for line in seen:
            say(f"  LEAK: {line}")
        if not seen:
            say(f"  nothing of B's network in the {len(outcome.seen_by_a)} messages that A saw, nothing of A's in"
                f" the {len(outcome.seen_by_b)} that B saw")  # fmt: skip
        good = outcome.good and not seen
        say("")
        say("The call crossed the border: both hear each other." if good else "The demonstration FAILED.")
        return 0 if good else 1


async def _serve_on(scene: Scene, say: Print) -> None:
    """Keep the callee's phone in place, for calls from anybody's softphone."""
    async with (
        Phone("bob", *scene.callee, CALLEE_HZ, lambda: secrets.randbits(32)) as callee,
        asyncio.TaskGroup() as calls,
    ):
        while True:
            talk = await callee.incoming.get()
            say("a call arrived at bob's phone, which plays its tone")
            calls.create_task(_entertain(talk, say))


async def _entertain(talk: Talk, say: Print) -> None:
    await talk.converse(3600)
    await talk.hang_up()
    say(f"the call is over: {talk.ear.packets} packets of audio came from the caller")


def what_next(scene: Scene, config: Config, call: str, sbc: str) -> str:
    """What a newcomer may try while the SBC serves on, with commands that can be copied."""
    socket = config.control.socket
    uri = f"sip:bob@{host_port(scene.sbc)}"
    return f"""
Serving on until Ctrl-C. What to try next, in another terminal:
  call {uri} from a softphone {_softphone(scene, config)}
  {sbc} calls   --socket {socket}
  {sbc} explain --socket {socket} {call}
  {sbc} simulate {config.path} --from {scene.outside.name} --to {uri} --source {scene.caller[0]}
  {sbc} check {config.path}
  {sbc} reload  --socket {socket}   when you have changed that file
and then write your own: networks, trunks, routes (docs/configuration.md), for {sbc} run FILE"""


def program(started_as: str) -> str:
    """How to start this program again: `make run` does not put it where the shell finds it."""
    name = Path(started_as).name
    return started_as if name == "sbc" and shutil.which("sbc") is None else "sbc"


def _softphone(scene: Scene, config: Config) -> str:
    """Where a softphone has to be for the routes to let it in."""
    if any(route.from_ in ("any", scene.outside.name) and route.to for route in config.routes):
        return "on this machine; it needs no account"
    return f"that is bound to {scene.caller[0]}"


def quickstart_path() -> Path:
    """The configuration that comes with the package."""
    return Path(__file__).resolve().parent.parent / "config" / "examples" / QUICKSTART


def show(file: Path | None, once: bool, seconds: float, width: int, plain: bool) -> int:
    """`sbc demo`: the exit status."""
    path = quickstart_path() if file is None else file
    report = examine(path)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    if report.config is None:
        return 1
    with tempfile.TemporaryDirectory(prefix="sbc-demo-") as folder:
        log_file = LogFile("error", None, sys.stderr)
        try:
            return asyncio.run(perform(report.config, folder, once, seconds, width, plain, _say))
        except (KeyboardInterrupt, asyncio.CancelledError):
            print("\nstopped")
            return 0
        except ExceptionGroup as group:
            expected, others = group.split(EXPECTED)
            if others is not None:
                raise
            return _complain(expected)
        except EXPECTED as error:
            return _complain(error)
        finally:
            log_file.close()


def _complain(error: BaseException | None) -> int:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    print(f"sbc: {error}", file=sys.stderr)
    return 1


def with_demo_settings(config: Config, folder: str) -> Config:
    """Nothing outside `folder` is touched, and whole messages are kept so that what was hidden can be shown."""
    log = config.log.model_copy(
        update={"trace": "full", "file": None, "cdr": os.path.join(folder, "cdr.jsonl")}
    )
    control = config.control.model_copy(update={"socket": os.path.join(folder, "control.sock")})
    return config.model_copy(update={"log": log, "control": control})


def _say(text: str) -> None:
    print(text, flush=True)
