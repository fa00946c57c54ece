"""Phones ring beside servers of trunks, and some that cannot be dialled (RFC 3261 s.16.6)."""

from dataclasses import replace

from tests.harness.forks import Forked, answered, cancelled, ring


def test_servers_of_a_trunk_are_tried_in_turn_beside_a_phone() -> None:
    """RFC 3263 s.4.3 inside one branch; the others go on ringing."""
    forked = Forked(1, 1, 1)
    one, two, phone = forked.phones
    servers = [
        replace(target, trunk="pbx", flow=None, contact="", failover_on=frozenset({503}))
        for target in forked.targets[:2]
    ]
    ring(forked.border, [*servers, forked.targets[2]])
    forked.call()
    first, ringing = one.expect("INVITE"), phone.expect("INVITE")
    two.nothing()
    phone.answer(ringing, 180)
    one.answer(first, 503)
    one.expect("ACK")
    second = two.expect("INVITE")
    assert second.uri == "sip:200@sip.private.example:5062"
    answered(two, second)
    two.expect("ACK")
    forked.alice.expect_answer(180)
    answer = forked.confirm()
    cancelled(phone, ringing)
    forked.hang_up(answer, two)
    assert [(tried.leg, tried.status) for tried in forked.border.records[0].targets] == [
        ("b1", 503),
        ("b2", 487),
        ("b3", 200),
    ]


def test_servers_of_a_trunk_come_after_the_phones() -> None:
    forked = Forked(1, 1, 0, 0)
    one, two, first_server, second_server = forked.phones
    servers = [
        replace(target, trunk="pbx", flow=None, contact="", failover_on=frozenset({503}))
        for target in forked.targets[2:]
    ]
    ring(forked.border, [*forked.targets[:2], *servers])
    forked.call()
    for phone in (one, two):
        phone.answer(phone.expect("INVITE"), 486)
        phone.expect("ACK")
    first_server.answer(first_server.expect("INVITE"), 503)
    first_server.expect("ACK")
    second_server.answer(second_server.expect("INVITE"), 404)
    second_server.expect("ACK")
    forked.confirm(486)
    forked.border.at_rest()


def test_busy_server_is_not_followed_by_the_phones() -> None:
    """What failover_on does not name ends the hunt, as it does without phones."""
    forked = Forked(0, 1)
    server, phone = forked.phones
    forked.call()
    server.answer(server.expect("INVITE"), 486)
    forked.confirm(486)
    phone.nothing()
    forked.border.at_rest()


def test_redirect_of_one_branch_is_followed_beside_the_others() -> None:
    forked = Forked(1, 1)
    one, two = forked.phones
    moved = forked.border.agent("private", "10.0.0.40:5060")
    ring(
        forked.border,
        [
            replace(forked.targets[0], trunk="pbx", flow=None, contact="", redirects="follow"),
            forked.targets[1],
        ],
    )
    forked.call()
    first, second = one.expect("INVITE"), two.expect("INVITE")
    one.host = moved.host
    one.answer(first, 302)
    one.expect("ACK")
    third = moved.expect("INVITE")
    two.answer(second, 180)
    moved.answer(third, 486)
    moved.expect("ACK")
    forked.alice.expect_answer(180)
    forked.alice.nothing()
    two.answer(second, 404)
    two.expect("ACK")
    forked.confirm(486)
    forked.border.at_rest()


# -- what cannot be dialled ----------------------------------------------------------------------------------


def test_phone_that_cannot_be_dialled_leaves_the_others() -> None:
    forked = Forked(1, 1)
    two = forked.phones[1]
    ring(
        forked.border,
        [
            replace(forked.targets[0], flow=None, transport="tcp", address=("2001:db8::1", 5060)),
            forked.targets[1],
        ],
    )
    forked.call()
    second = two.expect("INVITE")
    forked.alice.nothing()
    answered(two, second)
    two.expect("ACK")
    answer = forked.confirm()
    forked.hang_up(answer, two)
    assert forked.rules() == ["no-listener", "answered"]


def test_nobody_can_be_dialled() -> None:
    forked = Forked(1, 1)
    ring(
        forked.border,
        [replace(one, flow=None, transport="tcp", address=("2001:db8::1", 5060)) for one in forked.targets],
    )
    forked.call()
    forked.confirm(500)
    forked.border.at_rest()


def test_ports_for_some_of_them_only() -> None:
    """Who gets no media port does not ring; the call goes to the others."""
    forked = Forked(1, 1, 1)
    pool = forked.border.pool
    taken = []
    while pool.in_use("private") < 498:
        taken.append(pool.allocate("private", forked.border.now))
    forked.call()
    one, two, three = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
    three.nothing()
    two.answer(second, 180)
    answered(one, first)
    one.expect("ACK")
    forked.alice.expect_answer(180)
    answer = forked.confirm()
    cancelled(two, second)
    assert pool.in_use("private") == 499
    for pair in taken:
        pool.release(pair, forked.border.now)
    forked.hang_up(answer, one)
    assert forked.rules() == ["answered", "answered-elsewhere", "media-ports-exhausted"]
