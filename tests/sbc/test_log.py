"""The operator's log: form, redaction, levels, rotation."""

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sbc.log import Log, LogFile, format_fields, get_log, redact


@pytest.fixture
def sink() -> Iterator[tuple[io.StringIO, LogFile, Log]]:
    stream = io.StringIO()
    file = LogFile("info", None, stream)
    yield stream, file, get_log("sbc.test")
    file.close()


Sink = tuple[io.StringIO, LogFile, Log]


def test_message_first_then_call_and_leg_then_fields(sink: Sink) -> None:
    stream, _, log = sink
    log.bind("c-12", "a").info("call answered", status=200, peer="192.0.2.1:5060")
    line = stream.getvalue()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO call answered call=c-12 leg=a status=200 "
        r"peer=192.0.2.1:5060\n",
        line,
    )


def test_call_and_leg_are_there_even_without_a_call(sink: Sink) -> None:
    stream, _, log = sink
    log.warning("relay worker restarted", worker=1)
    assert "WARNING relay worker restarted call=- leg=- worker=1\n" in stream.getvalue()


def test_plain_logging_of_other_modules_gets_the_same_form(sink: Sink) -> None:
    stream, _, _ = sink
    logging.getLogger("media.workers").warning("worker %d died", 2)
    assert "WARNING worker 2 died call=- leg=- from=media.workers\n" in stream.getvalue()


def test_debug_is_silent_at_info_and_formats_nothing(sink: Sink) -> None:
    class Explosive:
        def __str__(self) -> str:
            raise AssertionError("formatted although DEBUG is off")

    stream, _, log = sink
    log.debug("never", value=Explosive())
    log.message("<", b"INVITE sip:a SIP/2.0\r\n\r\n")
    assert not log.debugging
    assert stream.getvalue() == ""


def test_messages_are_shown_at_debug_behind_their_direction(sink: Sink) -> None:
    stream, file, log = sink
    file.change("debug", None)
    log.bind("c-1", "b1").message(">", b"BYE sip:b SIP/2.0\r\nCall-ID: x\r\n\r\n", to="192.0.2.7:5060")
    assert stream.getvalue().splitlines()[1:] == ["> BYE sip:b SIP/2.0", "> Call-ID: x"]
    assert "DEBUG > BYE sip:b SIP/2.0 call=c-1 leg=b1 to=192.0.2.7:5060" in stream.getvalue()


def test_a_peer_cannot_forge_a_line_or_a_field() -> None:
    assert format_fields({"user": "x\nINFO forged call=c-9"}) == r'user="x\nINFO forged call=c-9"'
    assert format_fields({"user": 'a" status=200'}) == r'user="a\" status=200"'
    assert format_fields({"user": "\x1b[2J"}) == r'user="\x1b[2J"'
    assert format_fields({"user": ""}) == 'user=""'
    assert format_fields({"gone": None, "s": 1.23456}) == "s=1.235"


def test_a_newline_in_the_message_itself_is_escaped(sink: Sink) -> None:
    stream, _, log = sink
    log.info("bad\r\nINFO forged")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('Authorization: Digest username="bob", response="6629fae49393a05397450978507c4ef1"', "6629fae"),
        ('> Proxy-Authorization: Digest username="bob", nonce="abc"', "abc"),
        ("< authorization : Bearer eyJhbGciOi", "eyJhbGciOi"),
        ('Authorization:\tDigest\tusername="bob", nonce="abc"', "abc"),
        ('< Proxy-Authorization \t:\t Digest username="bob"', "bob"),
        ("> Authorization: c2VjcmV0", "c2VjcmV0"),
        ("Contact: <sip:alice:hunter2@192.0.2.1>", "hunter2"),
        ("password=hunter2 user=bob", "hunter2"),
        ('password="two words"', "two words"),
        (
            "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj",
            "d0RmdmcmVCsp",
        ),
        ("a=ice-pwd:asd88fgpdd777uzjYhagZg", "asd88fgpdd777uzj"),
    ],
)
def test_secrets_are_redacted(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in redact(text)
    assert "[redacted]" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "From: <sip:alice@192.0.2.1:5060>;tag=1",
        "call answered call=c-1 leg=a status=200",
        "WWW-Authenticate: Digest realm=x",
    ],
)
def test_what_is_not_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_redaction_holds_in_traced_messages(sink: Sink) -> None:
    stream, file, log = sink
    file.change("debug", None)
    log.message("<", b'REGISTER sip:x SIP/2.0\r\nAuthorization: Digest response="deadbeef"\r\n\r\n')
    assert "deadbeef" not in stream.getvalue()
    assert "< Authorization: Digest [redacted]" in stream.getvalue()


@pytest.mark.parametrize(
    "line",
    [
        b'Authorization:\tDigest username="bob", nonce="deadbeef"',
        b'Authorization\t:\tDigest\tnonce="deadbeef"',
        b'AUTHORIZATION: Digest username="bob",\r\n\tnonce="deadbeef"',
        b'Proxy-Authorization:\r\n Digest username="bob",\r\n  nonce="deadbeef"',
        b"Authorization: Basic\r\n deadbeef",
        b"Authorization:deadbeef",
        b"Authorization:\tdeadbeef",
    ],
)
@pytest.mark.parametrize("direction", ["<", ">"])
def test_credentials_are_redacted_however_they_are_written(sink: Sink, line: bytes, direction: str) -> None:
    stream, file, log = sink
    file.change("debug", None)
    log.message(
        direction, b"REGISTER sip:x SIP/2.0\r\nCSeq: 7 REGISTER\r\n" + line + b"\r\nExpires: 60\r\n\r\n"
    )
    text = stream.getvalue()
    assert "deadbeef" not in text and "bob" not in text
    assert "[redacted]" in text
    assert f"{direction} CSeq: 7 REGISTER\n" in text and f"{direction} Expires: 60\n" in text


def test_an_error_brings_its_traceback(sink: Sink) -> None:
    stream, _, log = sink
    try:
        raise ValueError("broken")
    except ValueError as error:
        log.error("call ended by our own bug", error=error, call="c-5")
    assert "ERROR call ended by our own bug call=c-5 leg=-" in stream.getvalue()
    assert "ValueError: broken" in stream.getvalue()


def test_reopen_follows_a_rotated_file(tmp_path: Path) -> None:
    path = tmp_path / "sbc.log"
    file = LogFile("info", str(path))
    log = get_log("sbc.test")
    log.info("one")
    path.rename(tmp_path / "sbc.log.1")
    log.info("two")
    file.reopen()
    log.info("three")
    file.close()
    assert "two" in (tmp_path / "sbc.log.1").read_text()
    assert "three" in path.read_text()
    assert "one" not in path.read_text()


def test_a_bad_path_at_change_leaves_the_old_file_in_use(tmp_path: Path) -> None:
    path = tmp_path / "sbc.log"
    file = LogFile("info", str(path))
    with pytest.raises(OSError):
        file.change("debug", str(tmp_path / "missing" / "sbc.log"))
    get_log("sbc.test").debug("still info")
    get_log("sbc.test").info("still here")
    file.close()
    assert "still here" in path.read_text()
    assert "still info" not in path.read_text()


def test_a_stream_that_fails_is_counted_and_never_raises() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    file = LogFile("info", None, Full())
    get_log("sbc.test").info("lost")
    assert file.dropped == 1
    file.close()


def test_close_gives_logging_back() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    LogFile("debug", None, io.StringIO()).close()
    assert (root.level, list(root.handlers)) == before


@pytest.mark.parametrize(
    "character",
    ["\x1b", "\x7f", "\x9b", "\x85", "\u2028", "\u202e", "\u2066", "\ufeff", "\udc9b", "\U000e0001"],
)
def test_no_character_that_a_terminal_obeys_gets_into_the_log(character: str) -> None:
    output = io.StringIO()
    log_file = LogFile("debug", None, output)
    try:
        log = get_log("sbc.calls")
        log.info(f"message {character}", display=f"x{character}y", plain=f"x{character}")
        log.message(
            "<", f"INVITE sip:a@b SIP/2.0\r\nSubject: {character}2J".encode("utf-8", "surrogateescape")
        )
    finally:
        log_file.close()
    assert character not in output.getvalue()
    assert all(line.isprintable() for line in output.getvalue().splitlines())
