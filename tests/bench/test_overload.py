"""What goodput is made of what a caller has written down."""

from tests.lab.goodput import told


def test_only_calls_that_were_served_well_and_in_time_count() -> None:
    log = "\n".join(
        [
            "begun 1 1000",  # when the load begins: before it is steady
            "answered 1 1100",
            "over 1 1300",
            "begun 2 2100",
            "answered 2 2200",
            "over 2 2400",
            "begun 3 2200",  # slow
            "answered 3 4300",
            "over 3 4500",
            "begun 4 2300",
            "refused 4 2310",
            "begun 5 2400",  # lost
            "begun 6 2500",  # never hung up on with an answer
            "answered 6 2600",
            "begun 7 4900",  # over when nobody counts any more, but served well
            "answered 7 5000",
            "over 7 5200",
            "begun 8 5100",  # after the load
        ]
    )
    trial = told(log, 4.0)
    assert (trial.offered, trial.clean, trial.refused, trial.bad) == (2.0, 1 / 3, 1 / 3, 3)
    assert round(trial.setup_ms) == 100


def test_a_caller_that_wrote_nothing_has_had_no_call() -> None:
    assert told("", 4.0).clean == 0
