"""Credentials in the REST form; a real coturn takes them in tests/lab/test_stun.py."""

import subprocess

import pytest

from nat.turn import MAX_USER, issue


def test_the_user_says_until_when_and_the_password_is_its_hash() -> None:
    found = issue("north", "alice", 1_700_000_000.9, 3600)
    assert (found.username, found.expires) == ("1700003600:alice", 1_700_003_600)
    by_openssl = subprocess.run(
        ["openssl", "dgst", "-sha1", "-hmac", "north", "-binary"],
        input=found.username.encode(),
        capture_output=True,
        check=True,
    ).stdout
    encoded = subprocess.run(["base64"], input=by_openssl, capture_output=True, check=True).stdout
    assert found.password == encoded.decode().strip()


def test_another_secret_user_or_time_is_another_password() -> None:
    passwords = {
        issue(secret, user, now, 60).password
        for secret in ("a", "b")
        for user in ("x", "y")
        for now in (0.0, 1.0)
    }
    assert len(passwords) == 8


def test_the_password_is_not_shown() -> None:
    found = issue("north", "alice", 0.0, 60)
    assert found.password not in repr(found)


@pytest.mark.parametrize("user", ["", "a:b", "a b", "a\n", "x" * (MAX_USER + 1)])
def test_a_user_that_cannot_be_one_is_refused(user: str) -> None:
    with pytest.raises(ValueError, match="1 to 128"):
        issue("north", user, 0.0, 60)
