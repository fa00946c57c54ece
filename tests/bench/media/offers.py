"""Opens the calls of a load in an rtpengine that runs in this namespace, by its ng protocol.

    python -m tests.bench.media.offers CONTROL CALLS PHONE_A PHONE_B [KEY]

With KEY (base64, RFC 4568 s.6.1) side a speaks SRTP. Writes one line of JSON: the ports for each side.
"""

import json
import re
import sys

from tests.bench.media.streams import Load
from tests.bench.ng import Ng, Value

SUITE = "AES_CM_128_HMAC_SHA1_80"


def open_calls(control: str, load: Load, phones: tuple[str, str], key: str) -> dict[str, list[int]]:
    """The ports of rtpengine that the phones of side a and b send to."""
    ports: dict[str, list[int]] = {"a": [], "b": []}
    with Ng(control) as ng:
        for call in range(load.calls):
            name, port = f"bench-{call}", load.phone_port(call)
            way: dict[str, Value] = {"direction": ["outside", "inside"]}
            more: dict[str, Value] = {"transport_protocol": "RTP/AVP"} if key else {}
            offer = ng.ask("offer", call_id=name, from_tag="a", sdp=_sdp(phones[0], port, key), **way, **more)
            answer = ng.ask("answer", call_id=name, from_tag="a", to_tag="b", sdp=_sdp(phones[1], port))
            ports["a"].append(_port(answer))
            ports["b"].append(_port(offer))
            if key:
                assert "RTP/SAVP" in str(answer["sdp"]) and "RTP/AVP" in str(offer["sdp"]), (offer, answer)
    return ports


def _sdp(host: str, port: int, key: str = "") -> str:
    proto = "RTP/SAVP" if key else "RTP/AVP"
    crypto = f"a=crypto:1 {SUITE} inline:{key}\r\n" if key else ""
    return (
        f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio {port} {proto} 0 101\r\n"
        f"a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n{crypto}"
    )


def _port(answer: dict[str, Value]) -> int:
    found = re.search(r"m=audio (\d+)", str(answer["sdp"]))
    assert found is not None, answer
    return int(found[1])


if __name__ == "__main__":
    calls = int(sys.argv[2])
    print(
        json.dumps(
            open_calls(
                sys.argv[1],
                Load(2 * calls, 0),
                (sys.argv[3], sys.argv[4]),
                sys.argv[5] if len(sys.argv) > 5 else "",
            )
        )
    )
