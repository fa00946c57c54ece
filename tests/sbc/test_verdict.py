"""The verdict on a call: how it stands or ended, and what is said of its media with it."""

import pytest

from sbc.verdict import ENDINGS, Ending, Facts, findings, judge_ending, verdict
from tests.sbc.test_media_verdict import SILENT, side, stream


def test_findings_have_stable_ids() -> None:
    muted = stream(side("A", SILENT))
    found = findings(Facts(Ending("up", lasted_s=3.0), (muted,)))
    assert [(one.id, one.side, one.healthy) for one in found] == [
        ("up", "", True),
        ("healthy", "B", True),
        ("nothing", "A", False),
    ]
    nobody = findings(
        Facts(Ending("ended", "sbc", "media-never"), (stream(side("A", SILENT), side("B", SILENT)),))
    )
    assert [(one.id, one.healthy) for one in nobody] == [("media-never", False), ("nothing-at-all", False)]
    good = findings(Facts(Ending("ended", "a", "bye"), (stream(),)))
    assert all(one.healthy for one in good)


@pytest.mark.parametrize("cause", list(ENDINGS))
def test_every_ending_is_a_sentence_without_holes(cause: str) -> None:
    text = judge_ending(Ending("ended", "sbc", cause, "why", 503, "pbx 10.0.0.20:5060", 75.0))
    assert text.endswith(".")
    assert "{" not in text


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (Ending("ringing", target="pbx 10.0.0.20:5060"), "B (pbx 10.0.0.20:5060) has not answered yet."),
        (Ending("ringing"), "The call is being routed."),
        (Ending("up", lasted_s=3725), "The call is up since 1 h 2 min."),
        (Ending("ended", "b", "bye", lasted_s=75), "B hung up after 1 min 15 s."),
        (
            Ending("failed", "sbc", "peer-rejected", "Busy Here", 486, "pbx 10.0.0.20:5060"),
            "Refused by B (pbx 10.0.0.20:5060): 486 Busy Here.",
        ),
        (
            Ending("failed", "sbc", "no-route", "Not Found", 404),
            "Rejected with 404: no rule of routes matched; the decisions show what was compared.",
        ),
        (
            Ending("failed", "sbc", "routes[3].reject", "Forbidden", 403),
            "Rejected with 403: Forbidden (rule routes[3].reject).",
        ),
        (
            Ending("failed", "sbc", "no-sdp-in-2xx", "The 2xx has no SDP", 502, "pbx 10.0.0.20:5060"),
            "B (pbx 10.0.0.20:5060) answered without SDP, so that no media could be agreed. A was told 502.",
        ),
        (
            Ending("ended", "sbc", "bug", "an error of the SBC itself", 500, lasted_s=2),
            "Ended by us: this call met an error of the SBC itself; the log has its traceback.",
        ),
        (Ending("ended", "sbc", "new-cause", "odd", 0, lasted_s=2), "Ended after 2.0 s: odd (new-cause)."),
    ],
)
def test_how_a_call_stands(ending: Ending, text: str) -> None:
    assert judge_ending(ending) == text


def test_the_media_of_a_call_that_was_never_answered_is_not_judged() -> None:
    silent = stream(side("A", SILENT), side("B", SILENT))
    assert len(verdict(Facts(Ending("failed", cause="cancel"), (silent,)))) == 1
    assert len(verdict(Facts(Ending("ended", cause="bye"), (silent,)))) == 2
