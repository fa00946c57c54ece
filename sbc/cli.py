"""The command `sbc`: check and run a configuration, ask a running SBC, simulate a call, show a demonstration.

Imports that a command needs stand inside it: `sbc version` must not load the whole program.
"""
# ruff: noqa: PLC0415 - see above: the first answer of a command line is part of how it feels.

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import typer

DEFAULT_SOCKET = "/run/sbc/control.sock"
DISTRIBUTION = "border-sbc"
DEBUG = "SBC_DEBUG"
"""Environment variable that shows tracebacks."""
EXIT_STATUS = (
    "Exit status: 0 done; 1 not done, with the reason on standard error (no SBC running, no such call, a mistake in"
    " the file); 2 wrong command line; 130 ended by Ctrl-C; 141 the reader of the output went away."
)

app = typer.Typer(
    name="sbc",
    help="A session border controller: SIP and media between networks that do not see each other.",
    epilog=EXIT_STATUS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(help="Configuration file (YAML).", metavar="FILE", show_default=False)]
CallName = Annotated[
    str, typer.Argument(help="Id of the call, the first letters of it, or a Call-ID.", metavar="CALL")
]
Socket = Annotated[
    str,
    typer.Option(
        "--socket", "-s", envvar="SBC_SOCKET", help="Control socket of the running SBC.", metavar="PATH"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
Plain = Annotated[bool, typer.Option("--ascii", help="Draw with ASCII characters only.")]


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Configuration files (YAML).", metavar="FILE...")],
    ask_dns: Annotated[
        bool,
        typer.Option(
            "--resolve",
            help="Ask the DNS for servers that have a name, and STUN servers for our address; warn of failures.",
        ),
    ] = False,
) -> None:
    """Check configuration files: every mistake at once, with file, line and column.

    What depends on this host is a warning, since the file may be meant for another one: addresses and interfaces
    that it lacks, too few open files. The network is left alone: names of servers are looked up, and STUN servers
    asked, with --resolve only.

    Exit status: 0 when every file can be used, warnings or not; 1 when one has a mistake.
    """
    from config.check import foreign_packages
    from config.load import examine
    from sbc.preflight import (
        examine_host,
        few_descriptors,
        kernel_path,
        names_of_servers,
        own_addresses,
        summary,
    )

    failed = False
    for problem in foreign_packages():
        typer.echo(str(problem), err=True)
        failed = True
    for file in files:
        report = examine(file)
        for problem in report.problems:
            typer.echo(str(problem), err=True)
        if report.config is None:
            failed = True
            continue
        config, host_problems = examine_host(report.config)
        for line in host_problems:
            typer.echo(line, err=True)
        if config is None:
            failed = True
            continue
        found = (*names_of_servers(config, ask_dns), *own_addresses(config, ask_dns))
        for warning in (*few_descriptors(config), *kernel_path(config), *found):
            typer.echo(warning, err=True)
        typer.echo(f"{file}: ok: {summary(config)}")
    raise typer.Exit(1 if failed else 0)


@app.command()
def run(file: File) -> None:
    """Run the SBC until SIGTERM or Ctrl-C.

    SIGHUP reloads the file and opens log and CDR files anew. SIGTERM and Ctrl-C end it: new calls get 503, those in
    progress may go on for timers.drain_s, then both sides get a BYE; a second signal does not wait for the calls.

    Exit status: 0 after a clean end; 1 when the file has a mistake or the SBC cannot start.
    """
    from sbc.server import serve

    raise typer.Exit(serve(str(file)))


@app.command()
def reload(socket: Socket = DEFAULT_SOCKET) -> None:
    """Make the running SBC read its file again: the whole of it, or nothing when it has a mistake."""
    answer = _ask(socket, "reload")
    for line in cast("list[str]", answer["changes"]):
        typer.echo(line)


@app.command()
def calls(
    socket: Socket = DEFAULT_SOCKET,
    once: Annotated[bool, typer.Option("--once", help="Print the table once.")] = False,
    as_json: AsJson = False,
    recent: Annotated[bool, typer.Option("--recent", help="Calls that have ended, latest first.")] = False,
) -> None:
    """Show the calls in progress, live until Ctrl-C.

    What came from A, the caller, stands before the slash, what came from B behind it: packets, loss between the phone
    and us in percent, MOS (1 to 4.5; below 3.6 many are dissatisfied).
    """
    from sbc.live import ROWS_LIMIT, print_once, watch

    def fetch(figures: int | None = None) -> dict[str, object]:
        return _ask(socket, "recent" if recent else "calls", figures=figures)

    if as_json:
        _print_json(fetch())
    elif once or recent or not sys.stdout.isatty():
        print_once(fetch(ROWS_LIMIT))
    else:
        watch(fetch)


@app.command()
def explain(
    call: CallName, socket: Socket = DEFAULT_SOCKET, as_json: AsJson = False, plain: Plain = False
) -> None:
    """Say what was decided about a call and why, draw its ladder, and judge its media."""
    answer = _ask(socket, "explain", call=call, width=_width(), plain=plain or not _unicode())
    if as_json:
        _print_json(answer["data"])
    else:
        typer.echo(answer["text"])


@app.command()
def simulate(
    file: File,
    network: Annotated[
        str, typer.Option("--from", help="Network that the call comes from.", metavar="NETWORK")
    ],
    uri: Annotated[
        str, typer.Option("--to", help="Called address, like sip:100@example.com.", metavar="URI")
    ],
    source: Annotated[
        str | None,
        typer.Option("--source", help="Address that it comes from: host or host:port.", metavar="ADDR"),
    ] = None,
    caller: Annotated[str, typer.Option("--caller", help="User part of the caller.")] = "caller",
    tcp: Annotated[bool, typer.Option("--tcp", help="The call comes by TCP.")] = False,
    ask_dns: Annotated[
        bool, typer.Option("--resolve", help="Ask the DNS for servers that have a name.")
    ] = False,
    registered: Annotated[
        list[str] | None,
        typer.Option("--registered", help="A user that has a phone; may be repeated.", metavar="USER"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what would happen to a call, and both legs' messages, without sending a packet.

    The decisions come in the order in which they were made, with the values that were compared. Servers that the
    file has by name are not looked up unless --resolve is given: an address that is kept for documentation stands
    for each, and the output says so.

    Exit status: 0 when the call was simulated, whatever came of it; 1 when the file or an argument is wrong.
    """
    import asyncio

    from config.load import load
    from config.problems import ConfigError
    from nat.interfaces import resolve
    from sbc.explain import explain as explain_record
    from sbc.names import look_up
    from sbc.simulate import lookups_of
    from sbc.simulate import simulate as simulate_call
    from signaling.errors import ParseError, PeerError
    from signaling.flow import host_port

    try:
        config = resolve(load(file))
        names = asyncio.run(look_up(config, lookups_of(config))) if ask_dns else None
        found = simulate_call(
            config, network, uri, source, caller, "tcp" if tcp else "udp", names, registered or ()
        )
    except ConfigError as error:
        sys.exit(str(error))
    except (ParseError, PeerError) as error:
        sys.exit(f"sbc: {error.reason}")
    if as_json:
        sent = [
            {"to": host_port(one.flow.remote), "data": one.data.decode("utf-8", "replace")}
            for one in found.sent
        ]
        explanation = explain_record(found.record, None, {}, found.record.started)
        _print_json({**explanation.data(), "invite": found.invite.decode("utf-8", "replace"), "sent": sent})
        return
    typer.echo(found.text(_width()))


@app.command()
def hangup(call: CallName, socket: Socket = DEFAULT_SOCKET) -> None:
    """End a call: BYE to both sides."""
    answer = _ask(socket, "hangup", call=call)
    typer.echo(f"{answer['call']}: ended")


@app.command()
def trunks(socket: Socket = DEFAULT_SOCKET, as_json: AsJson = False) -> None:
    """Show the servers of every trunk, whether they are up, and our registrations there."""
    answer = _ask(socket, "trunks")
    if as_json:
        _print_json(answer)
        return
    from sbc.live import print_trunks

    print_trunks(answer)


@app.command()
def registrations(
    user: Annotated[str | None, typer.Argument(help="Only the phones of this user.")] = None,
    socket: Socket = DEFAULT_SOCKET,
    as_json: AsJson = False,
) -> None:
    """Show the phones that are registered, and the way to each."""
    answer = _ask(socket, "registrations", **({} if user is None else {"user": user}))
    if as_json:
        _print_json(answer)
        return
    from sbc.live import print_registrations

    print_registrations(answer)


@app.command()
def stats(socket: Socket = DEFAULT_SOCKET, as_json: AsJson = False) -> None:
    """Show counters, and what the process holds: calls, transactions, ports."""
    answer = _ask(socket, "stats")
    if as_json:
        _print_json(answer)
        return
    for name, value in answer.items():
        typer.echo(f"{name:32} {value}")


@app.command("turn-credentials")
def turn_credentials(
    file: File,
    user: Annotated[str, typer.Option("--user", help="Who the credentials are for.", metavar="USER")],
    ttl: Annotated[
        int | None,
        typer.Option(
            "--ttl", min=1, max=604_800, help="Seconds that they are good for. Default: phones.turn.ttl_s."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print short-lived credentials for the TURN servers of phones.turn, made from their shared secret.

    For coturn with use-auth-secret and the same static-auth-secret. Nothing has to be running.

    Exit status: 0 when they were printed; 1 when the file or the user is wrong, or the file has no phones.turn.
    """
    import time

    from config.load import load
    from config.problems import ConfigError
    from nat.turn import issue

    try:
        phones = load(file).phones
    except ConfigError as error:
        sys.exit(str(error))
    turn = None if phones is None else phones.turn
    if turn is None:
        sys.exit(f"sbc: {file}: there is no phones.turn; write it with servers: and secret:")
    ttl_s = ttl or turn.ttl_s
    try:
        found = issue(turn.secret.get_secret_value(), user, time.time(), ttl_s)
    except ValueError as error:
        sys.exit(f"sbc: --user: {error}")
    uris = [str(server) for server in turn.servers]
    if as_json:
        _print_json({"username": found.username, "password": found.password, "ttl": ttl_s, "uris": uris})
        return
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found.expires))
    rows = [("username", found.username), ("password", found.password), ("good until", until)]
    for name, value in (*rows, *(("server", uri) for uri in uris)):
        typer.echo(f"{name:11} {value}")


@app.command(
    "user", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)
def user_command(context: typer.Context) -> None:
    """Add, remove and list the users of phones.users_file (sbc user --help)."""
    from sbc.user_commands import app as user_app

    user_app(context.args, prog_name="sbc user")


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the call; exit status 0 or 1.")] = False,
    file: Annotated[
        Path | None,
        typer.Option("--config", help="Another configuration than the quickstart.", metavar="FILE"),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, max=60.0, help="Length of the call.")] = 5.0,
    plain: Plain = False,
) -> None:
    """Place a call through an SBC on loopback between two built-in phones, and show all of it."""
    from sbc.demo import show

    raise typer.Exit(show(file, once=once, seconds=seconds, width=_width(), plain=plain or not _unicode()))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    from config.model import schema as model_schema

    _print_json(model_schema())


@app.command()
def version() -> None:
    """Print the version, and whether the modules of every message are compiled."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    from sbc.preflight import modules

    try:
        typer.echo(f"{DISTRIBUTION} {installed_version(DISTRIBUTION)}, {modules()}")
    except PackageNotFoundError:
        typer.echo(f"{DISTRIBUTION}, not installed (run from its source tree), {modules()}")


def main() -> None:
    """Entry point: whatever goes wrong is a sentence on standard error and never a traceback."""
    _guard(lambda: app(prog_name="sbc"))


def _guard(command: Callable[[], None]) -> None:
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # `sbc calls | head`: the reader has what it wanted. Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if DEBUG in os.environ:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"sbc: {where}{error.strerror or error}")
    # The one broad except of the command line: a bug of ours is a sentence too.
    except Exception as error:
        if DEBUG in os.environ:
            raise
        sys.exit(f"sbc: internal error: {type(error).__name__}: {error} (set {DEBUG}=1 to see where)")


def _ask(socket: str, verb: str, **arguments: object) -> dict[str, object]:
    from sbc.control import ControlError, ask

    try:
        answer = ask(socket, verb, arguments)
    except ControlError as error:
        sys.exit(f"sbc: {error}")
    if not isinstance(answer, dict):
        sys.exit(f"sbc: unexpected answer to {verb}")
    return answer


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def _unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
