"""Fuzz target of challenges and credentials.

Invariant: whatever the text, `parse_challenges` raises nothing and gives a bounded list, `parse_credentials` raises
nothing but ParseError and reads a plain line as any other, no line takes longer than `DEADLINE_S`; what parses
survives writing and parsing; every challenge that is read can be answered, on one line, and the answer verifies; no
other credentials are good.

`python -m tests.fuzz.fuzz_digest SECONDS [SEED]` runs on its own and prints the input that broke it.
"""

import random
import sys
import time

from signaling.digest import (
    MAX_CHALLENGES,
    Account,
    Check,
    Nonces,
    answer,
    compute,
    ha1,
    parse_challenges,
    parse_credentials,
    plain_params,
    spelled_params,
    write_challenge,
)
from signaling.errors import ParseError
from signaling.message import Response

DEADLINE_S = 0.5
"""Far above what any line needs (some 20 us), far below what a quadratic one takes."""
ACCOUNT = Account('al"ice', "secret")
SEEDS = (
    'Digest realm="example.com", nonce="abc", qop="auth,auth-int", algorithm=SHA-256, opaque="o", stale=true',
    'Digest realm="example.com", nonce="abc"',
    'Basic realm="x", Digest realm="a", nonce="n", algorithm=MD5-sess, qop="auth", Bearer scope="y"',
    'Digest username="alice", realm="example.com", nonce="abc", uri="sip:example.com", '
    'response="6629fae49393a05397450978507c4ef1", algorithm=MD5, qop=auth, nc=00000001, cnonce="0a4f113b"',
    'Digest username="bob", realm="example.com", nonce="abc", uri="sip:example.com", response="00"',
)
PIECES = (
    '"', "\\", '\\"', ",", "=", " ", "\t", ", ", "Digest ", 'realm="', "nonce=", "qop=auth", "nc=ffffffff",
    "algorithm=",
    "SHA-512-256", "-sess", "stale=true", "userhash=true", "\u00e9", "\udcff", "\x00", "00000000", "auth-int", "a",
)  # fmt: skip


def mutate(chance: random.Random) -> str:
    """A seed with a few things inserted, removed, repeated or exchanged."""
    text = chance.choice(SEEDS)
    for _ in range(chance.choice((0, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(text) + 1)
        match chance.randrange(4):
            case 0:
                text = text[:at] + chance.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[at + chance.choice((1, 1, 4, 40)) :]
            case 2:
                text = text[:at] + chance.choice(PIECES) * chance.choice((2, 10, 100, 3000)) + text[at:]
            case _:
                other = chance.choice(SEEDS)
                begin = chance.randrange(len(other))
                text = text[:at] + other[begin : begin + chance.randrange(60)] + text[at:]
    return text[:9000]


def check(text: str) -> bool:
    """The invariant for one line; returns whether anything in it was understood."""
    began = time.thread_time()
    challenges = parse_challenges(Response(401, "x", [("WWW-Authenticate", text)] * 9))
    try:
        credentials = parse_credentials(text)
    except ParseError:
        credentials = None
    assert time.thread_time() - began < DEADLINE_S
    plain = plain_params(text)
    assert plain is None or plain == spelled_params(text)
    assert len(challenges) <= MAX_CHALLENGES
    for challenge in challenges[:2]:
        assert parse_challenges(Response(401, "x", [write_challenge(challenge)])) == [challenge]
        _, line = answer(challenge, ACCOUNT, "INVITE", "sip:bob@example.com", 1, "cafe")
        assert "\r" not in line and "\n" not in line
        read = parse_credentials(line)
        algorithm = challenge.algorithm or "MD5"
        secret = ha1(ACCOUNT.username, challenge.realm, ACCOUNT.password, algorithm)
        assert compute(secret, read, "INVITE") == read.response
    if credentials is not None:
        secrets = {credentials.algorithm or "MD5": "0" * 32}
        found = Nonces(b"key").check(credentials, "REGISTER", "sip:example.com", secrets, 0.0)
        assert found is Check.WRONG
    return bool(challenges) or credentials is not None


def main(seconds: float, seed: int) -> None:
    """Run for so long and say what was done."""
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    tried = understood = 0
    while time.monotonic() < end:
        text = mutate(chance)
        try:
            understood += check(text)
        except Exception:
            print(f"seed {seed}, input {tried}: {text!r}", file=sys.stderr)
            raise
        tried += 1
    print(f"{tried} inputs, {understood} of them understood, seed {seed}")


if __name__ == "__main__":
    numbers = [float(argument) for argument in sys.argv[1:]]
    main(numbers[0] if numbers else 10.0, int(numbers[1]) if len(numbers) > 1 else time.time_ns() % 1_000_000)
