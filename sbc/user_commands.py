"""`sbc user`: the users of `phones.users_file`. The file holds HA1; a password is read once and never kept."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from config.load import load
from config.problems import ConfigError
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
    """Add a user, or give one another password. It is asked for, or read from standard input: one line."""
    path, realm = _place(file)
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        sys.exit("sbc: an empty password is none")
    secrets = {algorithm: ha1(name, realm, password, algorithm) for algorithm in ALGORITHMS}
    _done(lambda: write_user(path, realm, User(name, secrets, tuple(number or ()))))
    typer.echo(f"{name}@{realm}: written to {path}; sbc reload makes it known")


@app.command()
def remove(file: File, name: Name) -> None:
    """Take a user out."""
    path, realm = _place(file)
    found: list[bool] = []
    _done(lambda: found.append(remove_user(path, realm, name)))
    if not found[0]:
        sys.exit(f"sbc: {path}: there is no {name}@{realm}")
    typer.echo(f"{name}@{realm}: removed; sbc reload makes it known")


@app.command("list")
def list_users(file: File) -> None:
    """List the users with their numbers and the algorithms that they can answer."""
    path, realm = _place(file)
    users: list[User] = []
    _done(lambda: users.extend(read_users(path, realm)))
    for user in sorted(users, key=lambda one: one.name):
        typer.echo(f"{user.name:24} {' '.join(user.secrets):28} {' '.join(user.numbers)}".rstrip())


def _place(file: Path) -> tuple[str, str]:
    """The users_file that a configuration names, and the realm of its users."""
    try:
        config = load(file)
    except ConfigError as error:
        sys.exit(str(error))
    phones = config.phones
    if phones is None or phones.users_file is None:
        sys.exit(f"sbc: {file}: there is no phones.users_file")
    return phones.users_file, config.phones_domain


def _done(work: Callable[[], object]) -> None:
    try:
        work()
    except StoreError as error:
        sys.exit(f"sbc: {error}")
