"""The users of `registrar: local`: out of the configuration, out of a file, and by `sbc user`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from config.load import load
from sbc.store.bindings import users_of
from sbc.store.sqlite import StoreError, read_users
from sbc.user_commands import app
from sbc.users import User, Users
from signaling.digest import ha1

REALM = "sip.example.com"


def text(more: str) -> str:
    return (
        "networks:\n  public: {address: 192.0.2.1, listen: [udp:5060], media_ports: 40000-40099}\n"
        f"phones: {{network: public, registrar: local, domain: {REALM}, store: null, {more}}}\n"
        "routes: [{from: phones, to: phones}]\nlimits: {max_calls: 10}\n"
    )


def test_passwords_become_hashes_of_what_is_offered() -> None:
    config = load(text("digest: [MD5, SHA-256], users: {alice: {password: a, numbers: ['+1555']}}"))
    users = users_of(config)
    assert users is not None and users.algorithms == ("MD5", "SHA-256")
    alice = users.get("alice")
    assert alice is not None and alice.secrets == {
        one: ha1("alice", REALM, "a", one) for one in ("MD5", "SHA-256")
    }
    assert users.by_number("+1555") is alice and users.by_number("alice") is None
    assert users.stranded() == []


def test_who_has_no_hash_for_what_is_offered_is_named() -> None:
    users = Users(
        REALM, [User("alice", {"MD5": "0"}), User("bob", {"MD5": "0", "SHA-256": "1"})], ("MD5", "SHA-256")
    )
    assert users.stranded() == ["alice"]


def test_a_hash_that_is_not_offered_is_not_kept() -> None:
    given = f"{{MD5: '{'0' * 32}', SHA-256: '{'1' * 64}'}}"
    config = load(text(f"digest: [SHA-256], users: {{alice: {{ha1: {given}}}}}"))
    users = Users.of_config(config, [User("bob", {"MD5": "0", "SHA-256": "1"})])
    for name in ("alice", "bob"):
        user = users.get(name)
        assert user is not None and list(user.secrets) == ["SHA-256"]


def test_by_command(tmp_path: Path) -> None:
    file = tmp_path / "sbc.yaml"
    file.write_text(text(f"users_file: {tmp_path}/users.db, users: {{alice: {{password: a}}}}"))
    run = CliRunner()
    assert run.invoke(app, ["add", str(file), "carol", "--number", "+1666"], input="pw\n").exit_code == 0
    assert "carol" in run.invoke(app, ["list", str(file)]).output
    users = users_of(load(file))
    assert users is not None and len(users) == 2
    carol = users.get("carol")
    assert carol is not None and carol.secrets["MD5"] == ha1("carol", REALM, "pw", "MD5")
    assert users.by_number("+1666") is carol
    assert run.invoke(app, ["remove", str(file), "carol"]).exit_code == 0
    assert run.invoke(app, ["remove", str(file), "carol"]).exit_code == 1
    assert run.invoke(app, ["add", str(file), "dave"], input="\n").exit_code == 1


@pytest.mark.parametrize("words", [["al:ice"], ["al ice"], ['a"b'], [""], ["bob", "--number", "+1 555"]])
def test_what_nobody_can_write_is_no_user_nor_number(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "sbc.yaml"
    file.write_text(text(f"users_file: {tmp_path}/users.db"))
    done = CliRunner().invoke(app, ["add", str(file), *words], input="pw\n")
    assert done.exit_code == 1 and "is no user part" in done.output
    assert not (tmp_path / "users.db").exists()


def test_a_name_and_a_number_lead_to_one_user(tmp_path: Path) -> None:
    file = tmp_path / "sbc.yaml"
    listed = "users: {alice: {password: a, numbers: ['+1555']}}"
    file.write_text(text(f"users_file: {tmp_path}/users.db, {listed}"))
    run = CliRunner()
    assert run.invoke(app, ["add", str(file), "bob", "--number", "+1666"], input="pw\n").exit_code == 0
    for words in (["carol", "--number", "+1555"], ["carol", "--number", "bob"], ["+1666"], ["alice"]):
        done = run.invoke(app, ["add", str(file), *words], input="pw\n")
        assert done.exit_code == 1 and ("already" in done.output or "which counts" in done.output), words
    assert run.invoke(app, ["add", str(file), "bob"], input="other\n").exit_code == 0
    (bob,) = read_users(f"{tmp_path}/users.db", REALM)
    assert (bob.numbers, bob.secrets["MD5"]) == (("+1666",), ha1("bob", REALM, "other", "MD5"))


def test_a_users_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="sbc user add"):
        users_of(load(text(f"users_file: {tmp_path}/none.db")))
