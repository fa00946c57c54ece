"""Voice quality from loss, jitter and delay: the E-model of ITU-T G.107 with default values, as MOS-CQE."""

# Everything that G.107 counts besides delay, codec and loss is at its default here: Ro - Is = 93.2.
R_DEFAULT = 93.2
# G.107.1: the wideband scale ends at 129; MOS is told after folding it back (s.B.4).
R_WIDEBAND = 129.0

# encoding name: (Ie, Bpl, frame and look-ahead in ms). ITU-T G.113 Appendix I gives Ie and Bpl for G.711 with
# loss concealment, G.729A, G.723.1, G.726, GSM-FR, GSM-EFR (which is AMR 12.2); those of iLBC are estimates
# from its published listening tests.
_NARROWBAND = {
    "pcmu": (0.0, 25.1, 20.0),
    "pcma": (0.0, 25.1, 20.0),
    "l16": (0.0, 25.1, 20.0),
    "g729": (11.0, 19.0, 25.0),
    "g723": (15.0, 16.1, 37.5),
    "g726-32": (7.0, 16.1, 20.0),
    "g726-24": (25.0, 16.1, 20.0),
    "g728": (7.0, 16.1, 20.0),
    "gsm": (20.0, 10.0, 20.0),
    "gsm-efr": (5.0, 10.0, 20.0),
    "amr": (5.0, 10.0, 25.0),
    "ilbc": (11.0, 32.0, 30.0),
    "speex": (11.0, 16.1, 25.0),
}

# On the scale of G.107.1 with the values of G.113 Appendix IV; opus is not in G.113, its values are fitted to
# published listening tests at 24 kbit/s.
_WIDEBAND = {
    "g722": (13.0, 4.6, 20.0),
    "amr-wb": (13.0, 4.9, 25.0),
    "opus": (5.0, 10.0, 26.5),
    "g7221": (16.0, 5.0, 40.0),
}

_UNKNOWN = (11.0, 16.1, 25.0)


def rating(codec: str, loss: float, jitter_ms: float, rtt_ms: float | None) -> float:
    """The rating R (0-100) of one direction; `loss` is a fraction, `codec` an encoding name of SDP.

    The one-way delay is half of the round trip (0 if unknown), the codec's own, and a jitter buffer of twice
    the jitter.
    """
    name = codec.lower()
    wide = name in _WIDEBAND
    impairment, robustness, codec_ms = _WIDEBAND[name] if wide else _NARROWBAND.get(name, _UNKNOWN)
    delay_ms = (rtt_ms or 0.0) / 2 + codec_ms + 2 * jitter_ms
    # G.107 s.7.4: Id with the echo of default values, in the usual two-line approximation; it is within 1 up to
    # 300 ms, and above that harsher (by 9 at 500 ms).
    delay_impairment = 0.024 * delay_ms
    if delay_ms > 177.3:
        delay_impairment += 0.11 * (delay_ms - 177.3)
    # G.107 s.7.5 (7-29) for random loss, BurstR = 1.
    percent = 100.0 * min(max(loss, 0.0), 1.0)
    full = R_WIDEBAND if wide else R_DEFAULT
    worst = 95.0
    equipment = impairment + (worst - impairment) * percent / (percent + robustness)
    result = full - delay_impairment - equipment
    if wide:
        result /= 1.29
    return min(max(result, 0.0), 100.0)


def mos(r: float) -> float:
    """The mean opinion score for rating `r`, 1.0 to 4.5 (G.107 s.B.4)."""
    if r <= 0:
        return 1.0
    if r >= 100:
        return 4.5
    # The cubic dips below 1 for r < 6.5; the scale begins at 1.
    return max(1.0, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)
