"""Who has shown that our messages arrive at him."""

from signaling.return_path import MAX_PROVEN, ReturnPaths


def test_a_host_is_proven_in_its_own_network() -> None:
    paths = ReturnPaths()
    paths.prove("public", "192.0.2.1")
    assert paths.proven("public", "192.0.2.1")
    assert not paths.proven("private", "192.0.2.1")
    assert not paths.proven("public", "192.0.2.2")


def test_memory_is_bounded_and_keeps_who_was_heard_last() -> None:
    paths = ReturnPaths()
    paths.prove("public", "first")
    paths.prove("public", "second")
    for number in range(MAX_PROVEN - 2):
        paths.prove("public", str(number))
    paths.prove("public", "first")
    paths.prove("public", "one more")
    assert len(paths) == MAX_PROVEN
    assert paths.proven("public", "first")
    assert not paths.proven("public", "second")
