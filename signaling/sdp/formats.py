"""Names of media formats and of their parameters that may cross the border (RFC 8866 s.6.6, s.6.15).

An encoding name is whatever its sender likes, and so is a parameter: either could carry the name of a machine. So those
cross that IANA has registered for RTP, or that phones are known to use without; an encoding name also when the operator
has it in `media.codecs`. A format with another name crosses without it, so that nobody can choose it; another parameter
is taken out of its fmtp. Values are numbers, lists of them, hexadecimal and some words; what a decoder begins with
(`config`, `sprop-...`) is base64 or hexadecimal.
"""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.lower().split())


ENCODINGS = _words("""
    1d-interleaved-parityfec 32kadpcm AC3 AC4 AMR AMR-WB AMR-WB+ aptx ATRAC-ADVANCED-LOSSLESS ATRAC-X ATRAC3 BV16 BV32
    clearmode CN DAT12 dsr-es201108 dsr-es202050 dsr-es202211 dsr-es202212 DV DVI4 EAC3 encaprtp EVRC EVRC-QCP EVRC0
    EVRC1 EVRCB EVRCB0 EVRCB1 EVRCNW EVRCNW0 EVRCNW1 EVRCWB EVRCWB0 EVRCWB1 EVS flexfec fwdred G711-0 G719 G722 G7221
    G723 G726-16 G726-24 G726-32 G726-40 G728 G729 G7291 G729D G729E GSM GSM-EFR GSM-HR-08 iLBC ip-mr_v2.5 L16 L20 L24
    L8 LPC MELP MELP1200 MELP2400 MELP600 mhas MP4A-LATM MPA mpa-robust mpeg4-generic opus parityfec PCMA PCMA-WB PCMU
    PCMU-WB QCELP raptorfec RED rtp-enc-aescm128 rtp-midi rtploopback rtx scip SMV SMV-QCP SMV0 SP-MIDI speex t140 t140c
    t38 telephone-event tone TSVCIS UEMCLIP ulpfec usac VDVI VMR-WB vorbis
    3gpp-tt AV1 BMPEG BT656 CelB evc FFV1 H224 H261 H263 H263-1998 H263-2000 H264 H264-RCDO H264-SVC H265 H266 JPEG
    jpeg2000 jpeg2000-scl jxsv MP1S MP2P MP2T MP4V-ES MPV nv pointer raw smpte291 SMPTE292M vc1 vc2 VP8 VP9
    AAL2-G726-16 AAL2-G726-24 AAL2-G726-32 AAL2-G726-40 CCD CELT cisco-rtp-dtmf frf-dialed-digit G722.1 G723.1 G729A
    G729AB G729B iSAC NSE SILK SIREN SIREN14 SIREN22 SIREN7 SIRENLPR X-CCD x-data x-h264uc x-msrta X-NSE x-rtvc1 x-siren
    x-ulpfecuc
""")
"""Sound, then what else is registered, then what is in use without: compared without regard to case."""

PARAMETERS = _words("""
    apt bitrate channels level maxptime minptime mode parameter-add profile ptime rate rtx-time x-google-max-bitrate
    x-google-min-bitrate x-google-start-bitrate
    crc interleaving max-red mode-change-capability mode-change-neighbor mode-change-period mode-set octet-align
    robust-sorting br br-recv br-send bw bw-recv bw-send ch-aw-recv ch-recv ch-send cmr dtx dtx-recv evs-mode-switch
    hf-only dtxmax dtxmin fixedrate hangover silencesupp
    annexa annexb maxbitrate mbs cbr maxaveragebitrate maxplaybackrate sprop-maxcapturerate sprop-stereo stereo usedtx
    useinbandfec cng ebw penh sr vbr cps
    cpresent mps-profile-level-id object objecttype profile-level-id sbr-enabled auxiliarydatasizelength
    constantduration constantsize ctsdeltalength de-interleavebuffersize dtsdeltalength indexdeltalength indexlength
    maxdisplacement randomaccessindication sizelength streamstateindication streamtype
    bpp cif cif16 cif4 cpcf custom d f hrd i interlace j k maxbr n p par qcif sqcif t
    deint-buf-cap in-band-parameter-sets level-asymmetry-allowed max-br max-cpb max-dpb max-fps max-fs max-lps max-lsr
    max-mbps max-rcmd-nalu-size max-recv-level max-recv-level-id max-smbps max-static-mbps max-tc max-tr
    packetization-mode redundant-pic-cap sar-supported sar-understood sprop-deint-buf-req sprop-init-buf-time
    sprop-interleaving-depth sprop-max-don-diff use-level-src-parameter-sets dec-parallel-cap depack-buf-cap include-dph
    interop-constraints level-id profile-compatibility-indicator profile-id profile-space recv-sub-layer-id
    sprop-depack-buf-bytes sprop-depack-buf-nalus sprop-segmentation-id sprop-spatial-segmentation-idc
    sprop-sub-layer-id tier-flag tx-mode
    level-idx max-fr tier l repair-window top
""")
"""Of several formats; of AMR (RFC 4867), EVS (3GPP TS 26.445) and EVRC (RFC 4788); of G.72x (RFC 4856, RFC 4749), Opus
(RFC 7587), Speex (RFC 5574) and T.140 (RFC 4103); of MPEG-4 (RFC 6416, RFC 3640); of H.261 and H.263 (RFC 4587, RFC
4629); of H.264 and H.265 (RFC 6184, RFC 7798); of VP8, VP9, AV1 and repair (RFC 7741, RFC 9628, RFC 8627)."""
WORDS = _words("""
    on off yes no true false any none vad nb wb swb fb nb-wb nb-swb nb-fb wb-swb wb-fb swb-fb generic aac-hbr aac-lbr
    celp-cbr celp-vbr srst mrst mrmt
""")
"""Values of theirs that are no numbers."""
BEGINNINGS = _words("""
    config mps-config mps-asc sprop-level-parameter-sets sprop-parameter-sets sprop-pps sprop-sei sprop-sps sprop-vps
""")
"""Parameters that hold what a decoder begins with."""

# Without a name: a list of events (RFC 4733 s.2.5.1.1) or of payload types (RFC 2198 s.5).
_NUMBERS = re.compile(r"[0-9][0-9,/.\-]*")
_VALUE = re.compile(r"[0-9A-Fa-f.,/\-]*")
_BEGINNING = re.compile(r"[0-9A-Za-z+/=,]*")
# Four groups of digits are an address, not a list.
_ADDRESS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")


def encoding_crosses(name: str, allowed: frozenset[str] | None) -> bool:
    """Whether an encoding name of a=rtpmap may cross; `allowed` is what the operator lists, in capitals."""
    return name.lower() in ENCODINGS or (allowed is not None and name.upper() in allowed)


def parameters_that_cross(value: str) -> str:
    """The value of a=fmtp with the parameters that may cross; "" when none of them may."""
    payload, _, said = value.partition(" ")
    # Those of H.263 were once written with spaces between them.
    parts = [part for part in said.replace(" ", ";").split(";") if part]
    kept = [part for part in parts if _crosses(part)]
    if len(kept) == len(parts):
        return value if kept else ""
    return f"{payload} {';'.join(kept)}" if kept else ""


def _crosses(part: str) -> bool:
    if _ADDRESS.search(part) is not None:
        return False
    name, named, value = part.partition("=")
    if not named:
        return _NUMBERS.fullmatch(part) is not None
    name = name.lower()
    if name in BEGINNINGS:
        return _BEGINNING.fullmatch(value) is not None
    if name not in PARAMETERS:
        return False
    value = value.strip('"')
    return _VALUE.fullmatch(value) is not None or all(
        word in WORDS or _NUMBERS.fullmatch(word) is not None for word in value.lower().split(",")
    )
