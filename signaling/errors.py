"""The two kinds of error: the peer's fault and ours."""


class PeerError(Exception):
    """What a peer sent cannot be served; carries the SIP answer that says so.

    `status` is the SIP status code to answer with, `reason` its human text, `rule` the short slug that the
    log, the CDR and the API name the refusal by ("bad-request-line", "no-route"): one of a few, since they are counted.
    `retry_after_s` goes into Retry-After where there is one, and `extensions` into Unsupported.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        rule: str,
        retry_after_s: int | None = None,
        extensions: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{status} {reason} ({rule})")
        self.status = status
        self.reason = reason
        self.rule = rule
        self.retry_after_s = retry_after_s
        self.extensions = extensions


class ParseError(PeerError):
    """Bytes that are not the SIP or SDP they should be: the only exception that a parser raises."""

    def __init__(self, reason: str, rule: str = "malformed", status: int = 400) -> None:
        super().__init__(status, reason, rule)


class UsageError(Exception):
    """Our own bug: an API used in a way that it does not allow."""
