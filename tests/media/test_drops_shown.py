"""What our own queue dropped is told to whoever asks what became of a stream."""

from media.relay import Counters
from sbc.explain import _extras


def test_what_our_own_queue_dropped_is_named_when_there_is_any() -> None:
    assert _extras(Counters(dropped=7)) == ", 7 dropped in our own queue"
    assert _extras(Counters()) == ""
