"""The short way of `registrar: local`, from bytes to bytes: the two REGISTERs that nearly all of them are.

One shows no credentials and gets its 401. The other renews a binding that is there: the same contact by the same flow,
written as the phone wrote it the last time. What is new in it, the digest, the CSeq and the Call-ID, is looked at here;
for the rest what `sbc.registrar_local` once made of it holds (`sbc.register_shape`). All others are None here, nothing
of theirs having been counted or changed, and go the long way.

No transaction is kept (RFC 3261 s.8.2.7): a REGISTER that is repeated is known by its binding, and answered again.
"""

from collections.abc import Callable

from sbc.answers import Answer
from sbc.binding import Binding
from sbc.locations import Locations
from sbc.register_request import MAX_CALL_ID
from sbc.register_shape import plain_shape
from sbc.registrar import ORDER_S
from sbc.registrar_local import LocalRegistrar
from signaling.digest import plain_params, right
from signaling.flow import Flow
from signaling.stateless import Plain, lines

_HEXADECIMAL = "0123456789abcdefABCDEF"


class ShortWay:
    """`admit` tells what a REGISTER gets that comes when too many do, None to go on; None where there is no limit.

    Whether somebody is known at its flow is the last that it is told.
    """

    def __init__(
        self,
        registrar: LocalRegistrar,
        locations: Locations,
        admit: Callable[[Flow, str, float, bool], Answer | None] | None,
    ) -> None:
        self._registrar = registrar
        self._locations = locations
        self._admit = admit
        users = registrar.users
        self._realm = users.realm
        self._algorithms = users.algorithms
        self._offers = [
            (
                f'WWW-Authenticate: Digest realm="{users.realm}", nonce="',
                f'", algorithm={one}, qop="auth"\r\n',
            )
            for one in users.algorithms
        ]

    def answer(self, plain: Plain, flow: Flow, now: float, lasting: bool) -> bytes | None:
        """The answer to a plain REGISTER by a flow of the phones' network, None for one that goes the long way.

        `lasting`: what is answered has to be stored.
        """
        if plain.authorization:
            return self._renewed(plain, flow, now, lasting)
        if self._admit is not None:
            refused = self._admit(flow, plain.call_id, now, self._locations.anybody(flow))
            if refused is not None:
                return _refusal(plain, refused)
        nonce = self._registrar.nonce(flow.remote[0], now)
        return plain.answer(
            "401 Unauthorized", "".join([f"{before}{nonce}{after}" for before, after in self._offers])
        )

    def _renewed(self, plain: Plain, flow: Flow, now: float, lasting: bool) -> bytes | None:
        params = plain_params(plain.authorization)
        if params is None or not self._ours(params, plain.uri) or len(plain.call_id) > MAX_CALL_ID:
            return None
        name = params["username"]
        binding = self._binding(name, flow, plain_shape(plain, self._registrar.era))
        if binding is None or binding.dead or binding.expires_at <= now:
            return None
        mark = hash(plain.data)
        if plain.call_id == binding.call_id:
            if plain.number == binding.cseq and mark == binding.answered:
                return self._registered(plain, binding, now)
            if plain.number <= binding.cseq and now - binding.registered_at < ORDER_S:
                return None
        elif binding.gruu:
            return None  # RFC 5627 s.5.3: its temporary ones end with its Call-ID
        until = now + binding.granted_s
        if lasting and binding.stored_until < until:
            return None
        registrar = self._registrar
        user = registrar.users.get(name)
        algorithm = params.get("algorithm", "MD5")
        secret = None if user is None else user.secrets.get(algorithm)
        host = flow.remote[0]
        if secret is None or registrar.guessed(host) or not right(params, secret, algorithm, "REGISTER"):
            return None
        if self._admit is not None:
            refused = self._admit(flow, plain.call_id, now, True)
            if refused is not None:
                return _refusal(plain, refused)
        if not registrar.use(params["nonce"], int(params["nc"], 16), host, now):
            return None
        self._locations.renew(binding, until, plain.call_id, plain.number, now, lasting)
        binding.answered = mark
        return self._registered(plain, binding, now)

    def _ours(self, params: dict[str, str], uri: str) -> bool:
        """Whether these are credentials for us with all that they need; what is unusual is none of them."""
        get = params.get
        nc = get("nc", "")
        return (
            get("realm") == self._realm
            and get("uri") == uri
            and get("qop") == "auth"
            and get("algorithm", "MD5") in self._algorithms
            and len(nc) == 8
            and not nc.strip(_HEXADECIMAL)
            and nc != "00000000"
            and "username" in params
            and "nonce" in params
            and "response" in params
            and bool(get("cnonce"))
            and "userhash" not in params
        )

    def _binding(self, user: str, flow: Flow, shape: int) -> Binding | None:
        for binding in self._locations.of(user):
            if binding.shape == shape and (binding.flow is flow or binding.flow == flow):
                return binding
        return None

    def _registered(self, plain: Plain, renewed: Binding, now: float) -> bytes:
        registrar = self._registrar
        fields = [registrar.contact(one, now) for one in self._locations.of(renewed.user)]
        if renewed.reg_id:
            fields += registrar.flow_fields(renewed.flow)
        return plain.answer("200 OK", lines(fields))


def _refusal(plain: Plain, answer: Answer) -> bytes:
    status, reason, fields = answer
    return plain.answer(f"{status} {reason}", lines(fields))
