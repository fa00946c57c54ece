"""Invariant: whatever the bytes, `load` gives a Config or raises ConfigError whose problems all have a place."""

import json
import random
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.load import examine, load
from config.model import Config
from config.problems import ConfigError

ROOT = Path(__file__).parents[2]
SEEDS = [
    file.read_bytes()
    for folder in (ROOT / "config" / "examples", ROOT / "tests" / "golden" / "config")
    for file in sorted(folder.glob("*.yaml"))
]
BITS = [
    b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ", b"{", b"}", b"[", b"]", b": ", b"- ", b"\n", b"\t", b'"',
    b"'", b"|", b">", b"%", b"@", b"? ", b"---\n", b"...\n", b"\xff", b"\x00", b"${", b"${HOME}", b"$${", b"#",
    b"null", b"true", b"-1", b"1e999", b"99999999999999999999", b'"\\U00110000"', b"\xe2\x80\xa8", b"\xef\xbb\xbf",
]  # fmt: skip
KEYS = ["networks", "trunks", "routes", "limits", "timers", "media", "log", "control", "topology", "phones"]
INNER = ["from", "to", "a", "network", "registrar", "users", "password", "ha1", "MD5", "numbers", "turn", "secret",
         "servers", "address", "advertise", "stun_servers", "credentials", "register", "user", "when",
         "priority"]  # fmt: skip


def outcome(data: bytes) -> Config | ConfigError:
    text = data.decode("utf-8", "surrogateescape") + "\n"
    try:
        return load(text, {})
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.line >= 1 and problem.column >= 1 and problem.message
            str(problem).encode("utf-8", "backslashreplace")
        return error


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    outcome(data)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_random_text(text: str) -> None:
    outcome(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_mutated_files(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(data))
        match chance.randrange(4):
            case 0:
                data[at:at] = chance.choice(BITS)
            case 1:
                del data[at : at + chance.randint(1, 20)]
            case 2:
                other = chance.choice(SEEDS)
                start = chance.randrange(len(other) + 1)
                data[at:at] = other[start : start + chance.randint(1, 60)]
            case 3:
                data[at : at + 1] = bytes([chance.randrange(256)])
    outcome(bytes(data))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text("ab1:.-+/[]{}$*\\ ", max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, *INNER]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5))
def test_every_shape(value: dict[str, object]) -> None:
    # JSON is YAML.
    outcome(json.dumps(value).encode())


def test_deep_nesting_does_not_recurse() -> None:
    for opener in ("[", "{a: ", "- ", "? "):
        assert isinstance(outcome((opener * 50_000).encode()), ConfigError)


def test_expanding_aliases_are_refused() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    report = examine("\n".join(lines) + "\n", {})
    assert report.config is None
    assert len(report.problems) <= 101
