"""The streams of a call as values: what changes between two of them, and writing them down."""

import json
from dataclasses import replace

from media.relay import End, Learn, PortPair, Srtp
from media.session import Change, Close, Limit, Limits, MediaSession, Open, Stream


def end(port: int, epoch: int = 0, receive: bool = True) -> End:
    return End(
        PortPair("net", "192.0.2.1", port, port + 1),
        ("198.51.100.1", 4000),
        ("198.51.100.1", 4001),
        learn=Learn.PORT,
        expect="198.51.100.1",
        receive=receive,
        codecs=((0, "PCMU", 8000),),
        epoch=epoch,
    )


AUDIO = Stream(1, "rtp", "audio", "PCMU", end(20000), end(30000), Limits(60.0, 60.0), ("x:1", "y:2"))
FAX = Stream(2, "udptl", "image", "T.38", end(20002), end(30002))


def test_nothing_changes_between_equal_sessions() -> None:
    assert MediaSession((AUDIO, None)).changes(MediaSession((AUDIO,))) == []


def test_what_opens_and_closes_closing_first() -> None:
    assert MediaSession((AUDIO,)).changes(MediaSession((FAX,))) == [Close(AUDIO), Open(FAX)]


def test_only_the_end_that_changed_is_changed() -> None:
    moved = replace(AUDIO, b=end(30000, epoch=1, receive=False), limits=Limits(0.0, 5.0))
    assert MediaSession((AUDIO,)).changes(MediaSession((None, moved))) == [
        Change(1, "b", moved.b, AUDIO.b),
        Limit(1, Limits(0.0, 5.0)),
    ]


def test_a_learned_source_is_no_change() -> None:
    locked = AUDIO.locked("a", ("198.51.100.1", 61000))
    assert MediaSession((AUDIO,)).changes(MediaSession((locked,))) == []
    assert locked.learned().a.remote == ("198.51.100.1", 61000)
    assert locked.learned().b == AUDIO.b


def test_a_party_that_is_gone_neither_hears_nor_is_heard() -> None:
    (stream,) = MediaSession((None, AUDIO)).muted("b")
    assert (stream.b.remote, stream.b.remote_rtcp, stream.b.receive, stream.b.send) == (
        None,
        None,
        False,
        False,
    )
    assert stream.a == AUDIO.a
    assert stream.on_hold


def test_places_without_stream() -> None:
    session = MediaSession((None, FAX))
    assert list(session) == [FAX]
    assert (session[0], session[1], session[2]) == (None, FAX, None)


def test_written_down_and_restored() -> None:
    secret = replace(
        AUDIO.a, proven=("192.0.2.1",), srtp=Srtp("AES_CM_128_HMAC_SHA1_80", bytes(30), b"k" * 30)
    )
    audio = replace(AUDIO, a=secret).locked("b", ("2001:db8::1", 5))
    session = MediaSession((audio, None, FAX))
    assert "k" * 30 not in repr(session), "keys are not for logs"
    assert MediaSession.restore(json.loads(json.dumps(session.snapshot()))) == session


def test_the_relay_is_told_what_it_needs() -> None:
    spec = AUDIO.spec("c", 7.0)
    assert (spec.id, spec.call, spec.kind, spec.window_s, spec.start_s, spec.silence_s) == (
        1,
        "c",
        "rtp",
        7.0,
        60.0,
        60.0,
    )
