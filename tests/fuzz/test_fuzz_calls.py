"""Bounded runs of the conversation fuzz target; `python -m tests.fuzz.fuzz_calls` goes on for longer."""

from collections import Counter

import pytest

from tests.fuzz.fuzz_calls import Conversation, check


@pytest.mark.parametrize("seed", range(0, 400, 50))
def test_mutated_conversations_leave_nothing_behind(seed: int) -> None:
    for number in range(seed, seed + 50):
        check(number)


def test_a_long_conversation_leaves_nothing_behind() -> None:
    check(1_000_000, steps=1500)


def test_the_conversations_get_far_enough_to_mean_something() -> None:
    ends: Counter[str] = Counter()
    for seed in range(60):
        conversation = Conversation(seed)
        conversation.run(40)
        for record in conversation.border.records:
            ends["answered" if record.answered_at is not None else "not answered"] += 1
    assert ends["answered"] >= 20
    assert ends["not answered"] >= 20
