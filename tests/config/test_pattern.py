"""Patterns that routes may use, and those that would let a stranger stop the process."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.pattern import MAX_LENGTH, refusal


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        r"^\+",
        "^0[1-9]",
        "^(49|43|41)",
        r"^(\+|00)49(\d+)$",
        "^1{3}$",
        "^[)(|*]+$",
        r"\(\)\*+",
        "^a?b",
        "^(?P<n>1)2",
        "x{",
        "^[]a]+",
    ],
)
def test_plain_patterns_pass(pattern: str) -> None:
    assert refusal(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "no regular expression"),
        ("+1", "no regular expression"),
        ("[[a]", "no regular expression"),
        ("(a+)+", "inside a repeat"),
        ("((a)*b)*", "inside a repeat"),
        ("(a?)+", "inside a repeat"),
        (r"(\d{2,3})+", "inside a repeat"),
        ("(a|a)*", "repeated alternatives"),
        ("(x(a|b))+", "repeated alternatives"),
        ("(a|b){2,9}", "repeated alternatives"),
        ("a?" * 20, "slow"),
        ("(a|a)" * 20, "slow"),
        ("a*a*a*a*a*", "slow"),
        (r"(a)\1", "back reference"),
        ("(?=a)", "look-around"),
        ("(?i)a", "flags"),
        ("(?P<x>a)(?P=x)", "look-around"),
        ("a{1,999}", "count"),
        ("a" * (MAX_LENGTH + 1), "characters"),
        ("(" * 120 + ")" * 120 + "((", "no regular expression"),
    ],
)
def test_dangerous_patterns_are_refused_with_a_reason(pattern: str, words: str) -> None:
    reason = refusal(pattern)
    assert reason is not None and words in reason
    assert "write" in reason


@settings(max_examples=300, deadline=None)
@given(st.text(r"ab01^$.*+?(){}[]|\,-:P<>=!", max_size=30))
def test_every_pattern_is_judged_and_those_allowed_are_fast(pattern: str) -> None:
    if refusal(pattern) is not None:
        return
    compiled = re.compile(pattern)
    began = time.process_time()
    for text in ("a" * 64 + "!", "ab" * 32 + "!", "0" * 64 + "!", "01" * 32 + "!"):
        compiled.search(text)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("pattern", "fine"),
    [
        ("^[0-9]*[0-9]*[0-9]*x", True),
        ("[0-9]*[0-9]*[0-9]*x", False),
        ("^a|[0-9]*[0-9]*[0-9]*x", False),
        ("[0-9]*[0-9]*x", True),
    ],
)
def test_what_passes_takes_no_more_than_cubic_time(pattern: str, fine: bool) -> None:
    found = refusal(pattern)
    assert (found is None) is fine
    if fine:
        begin = time.perf_counter()
        re.search(pattern, "1" * 128)
        assert time.perf_counter() - begin < 0.5
    else:
        assert found is not None
        assert "write ^ first" in found
