"""What the compiler is shown says the same as the source."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from config.expand import expand, expand_tree

ROOT = Path(__file__).parents[2]
PACKAGES = ("sbc", "signaling", "media", "nat", "config")
SOURCE = '''"""Module.

from here on this is text, not an import.
"""
from dataclasses import dataclass, field
from typing import TypeVar

from config.frozen import frozen


LIMIT = 10
NAMES: dict[str, int] = {"one": 1}
TIMES = 0
T = TypeVar("T")


@frozen
class Account:
    """An account."""

    user: str
    password: str = field(repr=False)
    tries: int = 3


@dataclass(slots=True, eq=False)
class Basket:
    owner: Account
    things: list[str] = field(default_factory=list)

    def count(self) -> int:
        return len(self.things)


@dataclass(slots=True)
class Checked:
    at: int

    def __post_init__(self) -> None:
        if self.at < 0:
            raise ValueError("negative")


def count() -> int:
    global TIMES
    TIMES += 1
    return TIMES + LIMIT + NAMES["one"]


def after() -> None:
    raise LookupError
'''


def run(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, "source.py", "exec"), names)
    return names


def test_expanded_classes_are_made_and_compared_as_before() -> None:
    plain, expanded = run(SOURCE), run(expand(SOURCE))
    for names in (plain, expanded):
        account = names["Account"]("alice", password="secret")
        assert account == names["Account"]("alice", "secret", 3)
        assert hash(account) == hash(names["Account"]("alice", "secret", 3))
        assert account != names["Account"]("bob", "secret", 3)
        assert "secret" not in repr(account)
        assert dataclasses.replace(account, tries=4).tries == 4
        basket, other = names["Basket"](account), names["Basket"](account)
        basket.things.append("one")
        assert (basket.count(), other.count()) == (1, 0)
        assert basket != names["Basket"](account, ["one"])
        with pytest.raises(ValueError, match="negative"):
            names["Checked"](-1)
        with pytest.raises(TypeError):
            names["Account"]()


def test_the_init_is_written_out_where_it_says_the_same() -> None:
    text = expand(SOURCE)
    assert text.count("init=False") == 2
    assert "class Checked" in text
    assert "@dataclass(slots=True)\nclass Checked" in text


def test_constants_are_final_and_what_changes_is_not() -> None:
    text = expand(SOURCE)
    assert "\nLIMIT: typing.Final = 10\n" in text
    assert '\nNAMES: typing.Final[dict[str, int]] = {"one": 1}\n' in text
    assert "\nTIMES = 0\n" in text
    assert '\nT = TypeVar("T")\n' in text
    names = run(text)
    assert (names["count"](), names["count"]()) == (12, 13)


def test_lines_stay_where_they_are() -> None:
    with pytest.raises(LookupError) as caught:
        run(expand(SOURCE))["after"]()
    assert caught.traceback[-1].lineno == SOURCE.split("\n").index("    raise LookupError")


def test_a_class_with_a_base_or_nested_in_another_stays() -> None:
    derived = "import dataclasses\n\n\n@frozen\nclass A(B):\n    x: int\n\n\n"
    source = derived + "class C:\n    @frozen\n    class D:\n        x: int\n\n"
    assert expand(source) == source


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_keeps_its_lines(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        source = path.read_text()
        expanded = expand(source)
        ast.parse(expanded)
        assert expanded.count("\n") == source.count("\n"), path


def test_a_tree_is_copied_and_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    expand_tree(["signaling"], tmp_path / "expanded")
    assert "init=False" in (tmp_path / "expanded/signaling/events.py").read_text()
