"""How one network sees us: what stands in its messages in place of the other network (RFC 5853 s.3.1.1)."""

from config.frozen import frozen
from signaling.flow import Address


@frozen
class Site:
    """How one network sees us.

    `domain` is the host in identities that we send there, `contact` our advertised address there. Who is not
    `trusted` there is not believed what it asserts of itself (RFC 3325 s.5), and gets no asserted identity whose owner
    wants it private (s.7). With `gruu` our Contact is one, and this its user part: it leads to one phone, also outside
    of the dialog (RFC 5627 s.4.4).
    """

    domain: str
    contact: Address
    transport: str
    user_agent: str | None = None
    trusted: bool = True
    gruu: str = ""
