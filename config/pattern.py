"""Regular expressions that routes may use: those that cannot take exponential time.

Python's engine backtracks, and the text comes from strangers. A pattern is refused when a repeat stands
inside another (`(a+)+`), when alternatives are repeated (`(a|ab)*`), or when the choices in a row multiply to
too many (`a?a?a?...`). This refuses a few harmless patterns too; all of them can be written in another way.
"""

import re
import warnings

MAX_LENGTH = 256
MAX_REPEATS = 3
"""Repeats of no fixed count in one pattern: n of them take about length ** n steps. A pattern that may begin
anywhere has one more."""
MAX_CHOICES = 1000
"""Product of the alternatives and options in one pattern."""
MAX_COUNT = 256
"""Largest number in a counted repeat."""

_QUANTIFIER = re.compile(r"(?:[*+?]|\{(\d*)(,?)(\d*)\})[?+]?")


def refusal(pattern: str) -> str | None:
    """Why a pattern is refused and what to write instead, or None when it is fine."""
    if len(pattern) > MAX_LENGTH:
        return f"the pattern has {len(pattern)} characters; write one of at most {MAX_LENGTH}"
    try:
        with warnings.catch_warnings():
            # "[[a]" means something else in later versions of Python.
            warnings.simplefilter("error")
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        return f"no regular expression ({_first_line(error)}); write one like ^\\+49 or ^0[1-9]"
    return _slow(pattern)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else "too complex"


class _Group:
    """An open group: does it hold a repeat, and how many alternatives."""

    def __init__(self) -> None:
        self.repeats = False
        self.alternates = False
        self.branches = 1


def _slow(pattern: str) -> str | None:
    groups = [_Group()]
    repeats, choices, index = 0, 1, 0
    while index < len(pattern):
        closed = _Group()
        char = pattern[index]
        if char == "(":
            index = _group_start(pattern, index)
            if index < 0:
                return (
                    "look-around, back references and flags cannot be used; write groups as (...) or (?:...)"
                )
            groups.append(_Group())
            continue
        if char == "|":
            groups[-1].branches += 1
            groups[-1].alternates = True
            index += 1
            continue
        if char == ")":
            closed = groups.pop()
            choices *= closed.branches
            groups[-1].repeats |= closed.repeats
            groups[-1].alternates |= closed.alternates
            index += 1
        elif char == "\\":
            if pattern[index + 1] in "123456789":
                return "a back reference can be slow and cannot be used; write the pattern without"
            index += 2
        elif char == "[":
            index = _class_end(pattern, index)
        else:
            index += 1
        found = _QUANTIFIER.match(pattern, index)
        if found is None or found[0] in {"{}", "{,}"}:
            continue
        index = found.end()
        low, comma, high = found[1] or "", found[2], found[3] or ""
        if any(number and int(number) > MAX_COUNT for number in (low, high)):
            return f"a count of more than {MAX_COUNT} cannot be used; write a smaller number"
        groups[-1].repeats = True
        if found[0][0] == "?":
            choices *= 2
            continue
        if closed.repeats:
            return (
                "a repeat or option inside a repeat, like (a+)+, can take forever; write the pattern with one"
            )
        if closed.alternates:
            return "repeated alternatives, like (a|b)*, can take forever; write a character class like [ab]*"
        if found[1] is None or (comma and low != high):
            repeats += 1
    if repeats > MAX_REPEATS:
        return f"{repeats} repeats of open count (* + {{n,m}}) are slow; write at most {MAX_REPEATS}"
    if repeats == MAX_REPEATS and (pattern[0] != "^" or groups[0].branches > 1):
        return (
            f"{repeats} repeats of open count (* + {{n,m}}) from anywhere are slow; write ^ first, or fewer"
        )
    if choices * groups[0].branches > MAX_CHOICES:
        return "so many options and alternatives in one pattern are slow; write several routes"
    return None


def _class_end(pattern: str, index: int) -> int:
    """The index behind a character class that opens at `index`; the pattern is known to compile."""
    index += 1
    if pattern[index] == "^":
        index += 1
    if pattern[index] == "]":
        index += 1
    while pattern[index] != "]":
        index += 2 if pattern[index] == "\\" else 1
    return index + 1


def _group_start(pattern: str, index: int) -> int:
    """The index behind the opening of a group, -1 for a kind of group that is not allowed."""
    if pattern[index + 1] != "?":
        return index + 1
    if pattern.startswith("(?:", index):
        return index + 3
    if pattern.startswith("(?P<", index):
        return pattern.index(">", index) + 1
    return -1
