"""SIP and SDP. No media, no policy, and in the protocol cores no I/O."""
