"""What a relayed RTP packet costs, beside rtpengine: CPU of the relay and of the whole machine, loss and delay.

    python -m tests.bench.media [--streams 200,1000,4000] [--ways direct,reference,kernel,rtpengine] [--seconds 4]
                                [--rounds 3] [--plain | --srtp]

Real streams of 50 packets/s from sockets in one network namespace through a relay in a second one to sockets in a
third, half of them each way; bench.py says what the columns mean. Needs root and a C compiler.
"""

import argparse
import sys
from collections.abc import Sequence

from tests.bench.media.bench import PLAIN, SECONDS, SRTP, STREAMS, obstacle, report
from tests.bench.media.engines import WAYS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and print the table; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.media", description="What a relayed RTP packet costs."
    )
    parser.add_argument(
        "--streams", type=lambda text: [int(each) for each in text.split(",")], default=list(STREAMS)
    )
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS))
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of each run, after a second of warming up"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each way; the median counts")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--plain", dest="kinds", action="store_const", const=(PLAIN,), help="no SRTP")
    kinds.add_argument("--srtp", dest="kinds", action="store_const", const=(SRTP,), help="SRTP only")
    wanted = parser.parse_args(arguments)
    unknown = [way for way in wanted.ways if way not in WAYS]
    if unknown:
        parser.error(f"--ways knows {', '.join(WAYS)}, not {', '.join(unknown)}")
    reason = obstacle()
    if reason is not None:
        print(f"media bench: {reason}", file=sys.stderr)
        return 1
    report(wanted.streams, wanted.ways, wanted.seconds, wanted.rounds, wanted.kinds or (PLAIN, SRTP))
    return 0


if __name__ == "__main__":
    sys.exit(main())
