"""Standard texts in place of a peer's own."""

from signaling.phrases import reason_phrase


def test_reason_phrase_is_the_standard_one() -> None:
    assert reason_phrase(486) == "Busy Here"
    assert reason_phrase(499) == "Bad Request"
    assert reason_phrase(699) == "Busy Everywhere"
