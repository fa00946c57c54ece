"""Packets and ports. Knows endpoints and payload types; never SIP or SDP."""
