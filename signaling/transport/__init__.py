"""The wires SIP runs on: UDP and TCP (RFC 3261 s.18)."""
