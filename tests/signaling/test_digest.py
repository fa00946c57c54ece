"""Digest authentication: RFC 7616 s.3.9 and RFC 2617 s.3.5 as vectors, RFC 3261 s.22, RFC 8760."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.digest import (
    ALGORITHMS,
    Account,
    Challenge,
    Check,
    Credentials,
    Nonces,
    answer,
    choose,
    compute,
    credentials_for,
    ha1,
    parse_challenges,
    parse_credentials,
    plain_params,
    same_resource,
    spelled_params,
    write_challenge,
    write_credentials,
)
from signaling.errors import ParseError
from signaling.message import Request, Response

REALM = "sip.example.com"
URI = "sip:sip.example.com"
ALICE = Account("alice", "Circle of Life")
SECRETS = {name: ha1("alice", REALM, "Circle of Life", name) for name in ALGORITHMS}


def unauthorized(*lines: str, proxy: bool = False) -> Response:
    name = "Proxy-Authenticate" if proxy else "WWW-Authenticate"
    return Response(407 if proxy else 401, "Unauthorized", [(name, line) for line in lines])


def credentials(nonces: Nonces, now: float = 0.0, nc: int = 1, nonce: str | None = None) -> Credentials:
    """What alice's phone sends in a REGISTER."""
    challenge = Challenge(REALM, nonce or nonces.make("salt", now), "SHA-256", qop=("auth",))
    _, line = answer(challenge, ALICE, "REGISTER", URI, nc, "0a4f113b")
    return parse_credentials(line)


def check(nonces: Nonces, of: Credentials, now: float = 0.0) -> Check:
    return nonces.check(of, "REGISTER", URI, SECRETS, now)


class TestVectors:
    """RFC examples: what we compute is what the RFC prints."""

    @pytest.mark.parametrize(
        ("algorithm", "response"),
        [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ],
    )
    def test_rfc_7616_s_3_9_1(self, algorithm: str, response: str) -> None:
        nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
        opaque = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
        cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
        (challenge,) = parse_challenges(
            unauthorized(
                f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, '
                f'nonce="{nonce}", opaque="{opaque}"'
            )
        )
        mufasa = Account("Mufasa", "Circle of Life")
        name, line = answer(challenge, mufasa, "GET", "/dir/index.html", 1, cnonce)
        assert name == "Authorization"
        assert line == (
            f'Digest username="Mufasa", realm="http-auth@example.org", nonce="{nonce}", '
            f'uri="/dir/index.html", response="{response}", algorithm={algorithm}, opaque="{opaque}", '
            f'qop=auth, nc=00000001, cnonce="{cnonce}"'
        )

    def test_rfc_7616_s_3_9_2_as_erratum_4897_has_it(self) -> None:
        made = Credentials(
            "",
            "api@example.org",
            "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
            "/doe.json",
            "",
            "SHA-512-256",
            qop="auth",
            count="00000001",
            cnonce="NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
        )
        secret = ha1("J\u00e4s\u00f8n Doe", "api@example.org", "Secret, or not?", "SHA-512-256")
        expected = "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
        assert compute(secret, made, "GET") == expected

    def test_rfc_2617_s_3_5(self) -> None:
        made = parse_credentials(
            'Digest username="Mufasa", realm="testrealm@host.com", '
            'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", qop=auth, nc=00000001, '
            'cnonce="0a4f113b", response="6629fae49393a05397450978507c4ef1", '
            'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
        )
        assert (
            compute(ha1("Mufasa", "testrealm@host.com", "Circle Of Life", "MD5"), made, "GET")
            == made.response
        )

    def test_rfc_2069_s_2_4_as_its_erratum_has_it(self) -> None:
        challenge = Challenge("testrealm@host.com", "dcd98b7102dd2f0e8b11d0f600bfb0c093")
        _, line = answer(challenge, Account("Mufasa", "CircleOfLife"), "GET", "/dir/index.html", 1, "unused")
        assert parse_credentials(line).response == "1949323746fe6a43ef61f9606e7febea"
        assert "qop" not in line and "cnonce" not in line and "algorithm" not in line


class TestChallenges:
    def test_several_lines_and_several_in_one_line(self) -> None:
        found = parse_challenges(
            unauthorized(
                'Digest realm="a", nonce="n1", algorithm=SHA-256, qop="auth", '
                'Digest realm="a", nonce="n2", algorithm=MD5',
                'Digest realm="b", nonce="n3"',
            )
        )
        assert found == [
            Challenge("a", "n1", "SHA-256", qop=("auth",)),
            Challenge("a", "n2", "MD5"),
            Challenge("b", "n3"),
        ]

    @pytest.mark.parametrize(
        "line",
        [
            'digest REALM = "a" , Nonce="n",stale=TRUE, opaque="o"',
            'Digest  realm="a",nonce="n",,stale="true",  opaque="o",',
            'Digest algorithm="",realm="a", unknown=1, domain="sip:x, y", nonce="n", stale=true, opaque="o", x="\\""',
        ],
    )
    def test_ways_to_write_one(self, line: str) -> None:
        assert parse_challenges(unauthorized(line)) == [Challenge("a", "n", opaque="o", stale=True)]

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "Digest",
            'Basic realm="a"',
            "Negotiate YII=",
            'realm="a", nonce="n"',
            'Digest realm="a"',
            'Digest realm="a", nonce=""',
            'Digest nonce="n"',
            'Digest realm="a", nonce="n", nonce="m"',
            'Digest realm="a", nonce="n", nonce="m", nonce="l"',
            'Digest realm="a", nonce="n", algorithm=AKAv1-MD5',
            'Digest realm="a", nonce="n", algorithm=SHA-1',
            'Digest realm="a", nonce="n", qop="token"',
            'Digest realm="a", nonce="n" opaque="o"',
            'Digest realm="a", nonce="n',
            'Digest realm="a", nonce="' + "n" * 5000 + '"',
        ],
    )
    def test_those_that_nobody_can_answer_are_left_out(self, line: str) -> None:
        good = 'Digest realm="b", nonce="m"'
        assert parse_challenges(unauthorized(line, good)) == [Challenge("b", "m")]

    def test_another_scheme_beside_digest(self) -> None:
        (found,) = parse_challenges(
            unauthorized('Basic realm="x", Digest realm="a", nonce="n", Bearer a="b"')
        )
        assert found == Challenge("a", "n")

    def test_they_are_bounded(self) -> None:
        lines = ['Digest realm="a", nonce="n", ' * 40] * 40
        assert len(parse_challenges(unauthorized(*lines))) <= 8

    def test_escapes_go_back_as_they_came(self) -> None:
        (challenge,) = parse_challenges(unauthorized(r'Digest realm="a \"b\" \\", nonce="n"', proxy=True))
        name, line = answer(challenge, ALICE, "INVITE", URI, 1, "c")
        assert name == "Proxy-Authorization"
        assert r'realm="a \"b\" \\"' in line

    @given(
        st.builds(
            Challenge,
            st.from_regex(r"[a-zA-Z@. ,=]{0,20}", fullmatch=True),
            st.from_regex(r"[a-zA-Z0-9+/=]{1,20}", fullmatch=True),
            st.sampled_from(("", *ALGORITHMS)),
            st.just(False),
            st.sampled_from(((), ("auth",), ("auth", "auth-int"))),
            st.none() | st.from_regex(r"[a-z]{0,9}", fullmatch=True),
            st.booleans(),
            st.booleans(),
        )
    )
    def test_written_and_read_again(self, challenge: Challenge) -> None:
        assert parse_challenges(Response(401, "x", [write_challenge(challenge)])) == [challenge]


class TestChoice:
    def test_the_strongest_of_each_realm(self) -> None:
        offered = [Challenge("a", "n1"), Challenge("a", "n2", "SHA-256"), Challenge("b", "n3", "MD5")]
        assert choose(offered, ALICE) == [offered[1], offered[2]]

    def test_another_realm_than_that_of_the_account_gets_nothing(self) -> None:
        account = Account("alice", "secret", "ours")
        assert choose([Challenge("theirs", "n")], account) == []
        assert choose([Challenge("theirs", "n"), Challenge("ours", "m")], account) == [Challenge("ours", "m")]

    def test_a_proxy_and_a_server_both_get_theirs(self) -> None:
        offered = [Challenge("a", "n1"), Challenge("a", "n2", proxy=True)]
        assert choose(offered, ALICE) == offered

    def test_the_password_does_not_show(self) -> None:
        assert "Circle" not in repr(ALICE)


class TestCredentials:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("session", [False, True])
    @pytest.mark.parametrize("qop", [(), ("auth",), ("auth-int",), ("auth-int", "auth")])
    def test_what_we_answer_can_be_verified(
        self, algorithm: str, session: bool, qop: tuple[str, ...]
    ) -> None:
        challenge = Challenge(REALM, "n", algorithm, session, qop, "o")
        _, line = answer(challenge, ALICE, "INVITE", "sip:bob@x", 7, "cafe", b"body")
        read = parse_credentials(line)
        assert read.qop == ("auth" if "auth" in qop else "auth-int" if qop else "")
        assert read.nc == (7 if qop else 0)
        assert compute(SECRETS[algorithm], read, "INVITE", b"body") == read.response
        assert compute(SECRETS[algorithm], read, "BYE", b"body") != read.response
        assert write_credentials(read, False)[1] == line

    @pytest.mark.parametrize("count", ["1", "0000000A", "ffffffff"])
    def test_the_count_is_hashed_as_written(self, count: str) -> None:
        made = Credentials("alice", REALM, "n", URI, "", "MD5", qop="auth", count=count, cnonce="c")
        made = replace(made, response=compute(SECRETS["MD5"], made, "REGISTER"))
        read = parse_credentials(write_credentials(made, False)[1])
        assert read.nc == int(count, 16)
        assert compute(SECRETS["MD5"], read, "REGISTER") == made.response

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "Digest",
            "Basic YWxpY2U6c2VjcmV0",
            'username="a", realm="r", nonce="n", uri="u", response="x"',
            'Digest username="a", realm="r", nonce="n", uri="u"',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x", realm="s"',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x", Digest realm="s"',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x", algorithm=SHA-1',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x", userhash=true',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x", qop=auth',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x", qop=auth, nc=1, cnonce=""',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x", qop=auth, nc=00000000, cnonce="c"',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x", qop=auth, nc=0x000001, cnonce="c"',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x", qop=auth, nc=100000000, cnonce="c"',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x", qop=none, nc=1, cnonce="c"',
            'Digest username="a" realm="r", nonce="n", uri="u", response="x"',
            'Digest username="a", realm="r", nonce="n", uri="u", response="x" y',
            'Digest username="' + "a" * 5000 + '", realm="r", nonce="n", uri="u", response="x"',
            "Digest " + ", ".join(f"x{n}=1" for n in range(40)),
        ],
    )
    def test_malformed_ones_are_refused(self, line: str) -> None:
        with pytest.raises(ParseError) as error:
            parse_credentials(line)
        assert (error.value.status, error.value.rule) == (400, "bad-credentials")

    def test_of_several_lines_ours_is_taken(self) -> None:
        other = 'Digest username="a", realm="elsewhere", nonce="n", uri="u", response="x"'
        ours = other.replace("elsewhere", REALM)
        request = Request("REGISTER", URI, [("Authorization", line) for line in ("Basic x", other, ours)])
        assert credentials_for(request, REALM) == parse_credentials(ours)
        assert credentials_for(request, REALM, proxy=True) is None
        assert credentials_for(Request("REGISTER", URI, [("Authorization", other)]), REALM) is None
        with pytest.raises(ParseError):
            credentials_for(Request("REGISTER", URI, [("Authorization", "Basic x")]), REALM)


class TestPlainParams:
    LINE = 'Digest username="alice", realm="r", nonce="n==", uri="sip:r", response="0", nc=00000001, qop=auth'

    def test_read_as_in_any_other_way(self) -> None:
        assert plain_params(self.LINE) == spelled_params(self.LINE)
        assert plain_params(self.LINE.replace(", ", ",")) == spelled_params(self.LINE)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("Digest ", "digest "),
            ("Digest ", "Basic "),
            ("alice", 'al\\"ice'),
            ("alice", "al,ice"),
            ("alice", "al\u00e9"),
            ('"alice"', "al ice"),
            ('"alice"', '"'),
            ("username", "Username"),
            ("username", "another"),
            ("realm", "username"),
            ("nc=00000001", "nc="),
            ("qop=auth", 'qop="auth'),
            ("qop=auth", "qop=auth,"),
        ],
    )
    def test_what_is_written_otherwise_is_none(self, old: str, new: str) -> None:
        assert plain_params(self.LINE.replace(old, new)) is None


class TestNonces:
    def test_a_good_answer(self) -> None:
        nonces = Nonces(b"key")
        assert check(nonces, credentials(nonces)) is Check.GOOD

    def test_no_nonce_is_kept_for_those_who_only_ask(self) -> None:
        nonces = Nonces(b"key")
        for number in range(100):
            nonces.challenges(REALM, str(number), 0.0)
            check(nonces, credentials(nonces, nonce="x"))
        assert len(nonces) == 0

    def test_a_challenge_for_each_algorithm_the_strongest_first(self) -> None:
        fields = Nonces(b"key").challenges(REALM, "salt", 0.0, stale=True)
        found = parse_challenges(Response(401, "Unauthorized", fields))
        assert tuple(one.algorithm for one in found) == ALGORITHMS
        assert all(one.stale and one.qop == ("auth",) and one.realm == REALM for one in found)

    def test_wrong_password_wrong_method_unknown_user(self) -> None:
        nonces = Nonces(b"key")
        made = credentials(nonces)
        assert nonces.check(made, "INVITE", URI, SECRETS, 0.0) is Check.WRONG
        assert nonces.check(made, "REGISTER", URI, None, 0.0) is Check.WRONG
        assert nonces.check(made, "REGISTER", URI, {"MD5": SECRETS["MD5"]}, 0.0) is Check.WRONG
        other = {name: ha1("alice", REALM, "guess", name) for name in ALGORITHMS}
        assert nonces.check(made, "REGISTER", URI, other, 0.0) is Check.WRONG
        assert check(nonces, made) is Check.GOOD, "guesses use nothing up"

    def test_who_answers_for_nobody_gets_nowhere(self) -> None:
        """The HA1 that stands in for a missing one is no secret, so what is made with it is worth nothing."""
        nonces = Nonces(b"key")
        made = credentials(nonces)
        for stand_in in ("-" * 64, "-" * 32, "0" * 64, ""):
            forged = replace(made, response=compute(stand_in, made, "REGISTER"))
            assert nonces.check(forged, "REGISTER", URI, None, 0.0) is Check.WRONG
            assert nonces.check(forged, "REGISTER", URI, {}, 0.0) is Check.WRONG

    def test_stale_after_its_lifetime_and_after_a_restart(self) -> None:
        nonces = Nonces(b"key", lifetime_s=300)
        made = credentials(nonces, now=1000.0)
        assert check(nonces, made, 1300.1) is Check.STALE
        assert check(nonces, made, 999.0) is Check.STALE, "made in the future"
        assert check(Nonces(b"another key"), made, 1000.0) is Check.STALE
        assert check(nonces, made, 1300.0) is Check.GOOD

    def test_a_count_is_good_once(self) -> None:
        nonces = Nonces(b"key")
        nonce = nonces.make("salt", 0.0)
        order = [1, 3, 2, 70, 6, 69, 7, 1000, 0xFFFFFFFF]
        for nc in order:
            made = credentials(nonces, nc=nc, nonce=nonce)
            assert check(nonces, made) is (Check.STALE if nc == 5 else Check.GOOD), nc
            assert check(nonces, made) is Check.STALE, nc
        for nc in (1, 2, 3, 4, 5, 68, 500):
            assert check(nonces, credentials(nonces, nc=nc, nonce=nonce)) is Check.STALE, nc

    @given(st.lists(st.integers(1, 200), max_size=60))
    def test_no_count_twice_in_any_order(self, counts: list[int]) -> None:
        nonces = Nonces(b"key")
        nonce = nonces.make("salt", 0.0)
        good = [nc for nc in counts if check(nonces, credentials(nonces, nc=nc, nonce=nonce)) is Check.GOOD]
        assert len(good) == len(set(good))
        highest = 0
        for nc in dict.fromkeys(counts):
            assert nc in good or highest - nc > 64
            highest = max(highest, nc)

    def test_without_qop_a_nonce_is_good_once(self) -> None:
        nonces = Nonces(b"key")
        challenge = Challenge(REALM, nonces.make("salt", 0.0), "SHA-256")
        made = parse_credentials(answer(challenge, ALICE, "REGISTER", URI, 1, "")[1])
        assert check(nonces, made) is Check.GOOD
        assert check(nonces, made) is Check.STALE

    def test_what_was_not_offered_is_wrong(self) -> None:
        nonces = Nonces(b"key")
        for challenge in (
            Challenge(REALM, nonces.make("a", 0.0), "SHA-256", True, ("auth",)),
            Challenge(REALM, nonces.make("b", 0.0), "SHA-256", False, ("auth-int",)),
        ):
            made = parse_credentials(answer(challenge, ALICE, "REGISTER", URI, 1, "c")[1])
            assert check(nonces, made) is Check.WRONG

    def test_the_table_is_bounded_and_nothing_forgotten_is_accepted_again(self) -> None:
        nonces = Nonces(b"key", max_nonces=10)
        made = [credentials(nonces, nonce=nonces.make(str(n), n / 100)) for n in range(30)]
        unused = credentials(nonces, nonce=nonces.make("unused", 0.1))
        assert [check(nonces, one, 0.5) for one in made] == [Check.GOOD] * 30
        assert len(nonces) == 10
        assert [check(nonces, one, 0.5) for one in made] == [Check.STALE] * 30
        assert check(nonces, unused, 0.5) is Check.STALE, "as old as those that are forgotten"
        assert check(nonces, credentials(nonces, now=0.5), 0.5) is Check.GOOD

    def test_a_nonce_is_for_the_host_that_asked(self) -> None:
        """Else who forges the source of one REGISTER binds the address of somebody else."""
        nonces = Nonces(b"key")
        nonce = nonces.make("s", 0.0, "192.0.2.1")

        def use(host: str, nc: int) -> Check:
            made = credentials(nonces, nc=nc, nonce=nonce)
            return nonces.check(made, "REGISTER", URI, SECRETS, 0.0, host=host)

        assert [use("192.0.2.2", 1), use("", 1)] == [Check.STALE] * 2
        assert use("192.0.2.1", 1) is Check.GOOD
        assert use("192.0.2.2", 2) is Check.STALE, "nor from elsewhere once it is in use"
        assert use("192.0.2.1", 2) is Check.GOOD
        (field, *_) = nonces.challenges(REALM, "t", 0.0, host="192.0.2.1")
        offered = parse_challenges(unauthorized(field[1]))[0]
        _, line = answer(offered, ALICE, "REGISTER", URI, 1, "cn")
        assert nonces.check(parse_credentials(line), "REGISTER", URI, SECRETS, 0.0, host="x") is Check.STALE
        assert (
            nonces.check(parse_credentials(line), "REGISTER", URI, SECRETS, 0.0, host="192.0.2.1")
            is Check.GOOD
        )

    def test_old_ones_make_room(self) -> None:
        nonces = Nonces(b"key", lifetime_s=10)
        for second in range(100):
            assert check(nonces, credentials(nonces, now=float(second)), float(second)) is Check.GOOD
        assert len(nonces) <= 12

    def test_a_nonce_has_one_spelling(self) -> None:
        nonces = Nonces(b"key")
        nonce = nonces.make("s", 0.0)
        assert check(nonces, credentials(nonces, nonce=nonce)) is Check.GOOD
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/"
        for other in [nonce[:-1] + char for char in alphabet if char != nonce[-1]] + [
            nonce + "=",
            nonce + " ",
        ]:
            assert check(nonces, credentials(nonces, nonce=other)) is Check.STALE, other
        assert check(nonces, credentials(nonces, nonce="\u00e9" + nonce)) is Check.STALE


class TestUri:
    @pytest.mark.parametrize(
        ("digest", "request_uri"),
        [
            ("sip:example.com", "sip:example.com"),
            ("sip:Example.com:5060", "sip:example.COM;transport=tcp"),
            ("sip:bob@example.com", "sip:bob@example.com:5070;user=phone"),
            ("sips:example.com", "sip:example.com"),
            ("sip:192.0.2.1", "sip:example.com"),
            ("tel:+1555", "tel:+1555"),
            ("not a uri", "not a uri"),
        ],
    )
    def test_the_same(self, digest: str, request_uri: str) -> None:
        assert same_resource(digest, request_uri, {"example.com", "192.0.2.1"})

    @pytest.mark.parametrize(
        ("digest", "request_uri"),
        [
            ("sip:example.com", "sip:example.org"),
            ("sip:alice@example.com", "sip:bob@example.com"),
            ("sip:example.com", "sip:bob@example.com"),
            ("sip:192.0.2.1", "sip:example.org"),
            ("sip:example.org", "sip:192.0.2.1"),
            ("tel:+1555", "tel:+1556"),
            ("not a uri", "sip:example.com"),
            ("", "sip:example.com"),
        ],
    )
    def test_another(self, digest: str, request_uri: str) -> None:
        assert not same_resource(digest, request_uri, {"example.com", "192.0.2.1"})

    def test_a_digest_for_another_uri(self) -> None:
        nonces = Nonces(b"key")
        made = credentials(nonces)
        assert nonces.check(made, "REGISTER", "sip:elsewhere.example", SECRETS, 0.0) is Check.OTHER_URI
        own = {"sip.example.com", "elsewhere.example"}
        assert nonces.check(made, "REGISTER", "sip:elsewhere.example", SECRETS, 0.0, own) is Check.GOOD
