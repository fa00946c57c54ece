"""`sbc user`: the users of `phones.users_file`. The file holds HA1; a password is read once and never kept."""

import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from config.load import load
from config.model import Config
from config.problems import ConfigError
from config.values import UserPart
from sbc.store.sqlite import StoreError, read_users, remove_user, write_user
from sbc.users import User
from signaling.digest import ALGORITHMS, ha1

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Add, remove and list the users of phones.users_file.",
)

File = Annotated[Path, typer.Argument(help="Configuration file (YAML).", metavar="FILE", show_default=False)]
Name = Annotated[str, typer.Argument(help="User part of the address of record.", metavar="USER")]


@app.command()
def add(
    file: File,
    name: Name,
    number: Annotated[
        list[str] | None, typer.Option("--number", help="A number that is this user's; may be repeated.")
    ] = None,
) -> None:
    """Add a user, or give one another password. It is asked for, or read from standard input: one line.

    Without --number a user keeps the numbers that he has.
    """
    config, path = _place(file)
    realm = config.phones_domain
    for text in (name, *(number or ())):
        _sensible(text)
    before = _stored(path, realm)
    numbers = tuple(number) if number else next((one.numbers for one in before if one.name == name), ())
    _free(name, numbers, config, before)
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        sys.exit("sbc: an empty password is none; type one, or give it as a line on standard input")
    secrets = {algorithm: ha1(name, realm, password, algorithm) for algorithm in ALGORITHMS}
    _done(lambda: write_user(path, realm, User(name, secrets, numbers)))
    typer.echo(f"{name}@{realm}: written to {path}; sbc reload makes it known")


@app.command()
def remove(file: File, name: Name) -> None:
    """Take a user out. With the next reload his phones are not registered any more."""
    config, path = _place(file)
    realm = config.phones_domain
    found: list[bool] = []
    _done(lambda: found.append(remove_user(path, realm, name)))
    if not found[0]:
        sys.exit(f"sbc: {path}: there is no {name}@{realm}")
    typer.echo(f"{name}@{realm}: removed; sbc reload makes it known")


@app.command("list")
def list_users(file: File) -> None:
    """List the users with their numbers and the algorithms that they can answer."""
    config, path = _place(file)
    users: list[User] = []
    _done(lambda: users.extend(read_users(path, config.phones_domain)))
    for user in sorted(users, key=lambda one: one.name):
        typer.echo(f"{user.name:24} {' '.join(user.secrets):28} {' '.join(user.numbers)}".rstrip())


def _place(file: Path) -> tuple[Config, str]:
    """A configuration and the users_file that it names."""
    try:
        config = load(file)
    except ConfigError as error:
        sys.exit(str(error))
    phones = config.phones
    if phones is None or phones.users_file is None:
        sys.exit(f"sbc: {file}: there is no phones.users_file; write the file that sbc user is to make")
    return config, phones.users_file


def _sensible(text: str) -> None:
    """A user or number that nobody can write in SIP would never register, and never be called."""
    try:
        TypeAdapter(UserPart).validate_python(text)
    except ValidationError as error:
        sys.exit(f"sbc: {error.errors()[0]['msg']}")


def _stored(path: str, realm: str) -> list[User]:
    """The users that there are, none where there is no file yet."""
    users: list[User] = []
    if Path(path).exists():
        _done(lambda: users.extend(read_users(path, realm)))
    return users


def _free(name: str, numbers: Collection[str], config: Config, stored: Iterable[User]) -> None:
    """Names and numbers lead to one user: who has them already is said, and nothing is written."""
    listed = {} if config.phones is None else config.phones.users
    if name in listed:
        sys.exit(f"sbc: {name} stands in phones.users, which counts: change it there, or take it out first")
    owners = {one.name: one.numbers for one in stored} | {one.name: one.numbers for one in listed.values()}
    owners.pop(name, None)
    for other, theirs in owners.items():
        for text in (name, *numbers):
            if text == other or text in theirs:
                sys.exit(f"sbc: {text} leads to {other} already; write every name and number once")


def _done(work: Callable[[], object]) -> None:
    try:
        work()
    except StoreError as error:
        sys.exit(f"sbc: {error}")
