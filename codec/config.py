"""Constants of the codec: one frozen dataclass, saved in every checkpoint and card.

The numbers that both sides of the bitstream must share live here and nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

OURS = "nsvq"  # how this codec is called beside others, unless a run names it otherwise

# --- framing --------------------------------------------------------------------------------------

SAMPLE_RATE = 16000  # Hz, of everything behind the resampler
HOP_LENGTH = 160  # N, samples per MDCT block; the window is 2N
BLOCKS_PER_FRAME = 2
FRAME_LENGTH = HOP_LENGTH * BLOCKS_PER_FRAME  # samples: 20 ms
FRAMES_PER_SECOND = SAMPLE_RATE // FRAME_LENGTH
FRAMES_PER_GROUP = 50  # that share a checksum; the first of each is an intra frame
DELAY_SAMPLES = FRAME_LENGTH + HOP_LENGTH  # algorithmic delay: 30 ms

# --- rates ----------------------------------------------------------------------------------------

MIN_BITRATE_BPS, MAX_BITRATE_BPS = 8000, 32000
MIN_KBPS, MAX_KBPS = MIN_BITRATE_BPS / 1000, MAX_BITRATE_BPS / 1000
DEFAULT_KBPS = 13.2
MAX_FRAME_BYTES = 255  # of a VBR frame, whose length takes one byte
MAX_FRAME_BITS = 2048  # what allocation and context model know of a frame's size ends here
FINGERPRINT_BYTES = 4  # of the weights' SHA-256, as files carry it

# --- container ------------------------------------------------------------------------------------

MAGIC = b"NSVQ"
FORMAT_VERSION = 4
HEADER_BYTES, CRC_BYTES = 24, 2
TRAILER_BYTES = 7  # at the end of a stream with an open end
MAX_NUM_SAMPLES = (1 << 40) - 1  # of a source
MAX_NUM_STAGES = 8

# --- source audio ---------------------------------------------------------------------------------

MIN_SOURCE_RATE, MAX_SOURCE_RATE = 1000, 768000  # Hz

# Bits per packet at the six rates of the EVS primary modes that every table reports.
REPORT_RATES_KBPS: tuple[float, ...] = (8.0, 9.6, 13.2, 16.4, 24.4, 32.0)

# 20 bands on the Bark scale (Zwicker 1961), in MDCT bins of 50 Hz; one more edge than bands.
BAND_EDGES: tuple[int, ...] = (
    0, 2, 4, 6, 8, 10, 13, 16, 19, 23, 27, 32, 38, 45, 53, 63, 75, 89, 106, 127, 160,
)  # fmt: skip

# Magnitudes of bins: 0..15 have a symbol each; larger ones share a symbol with their neighbours
# and tell them apart by raw bits (column 2); the last symbol is followed by an Exp-Golomb code.
MAGNITUDE_BASE: tuple[int, ...] = (
    *range(16), 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 192, 256,
)  # fmt: skip
MAGNITUDE_EXTRA_BITS: tuple[int, ...] = (*(16 * (0,)), 2, 2, 2, 2, 3, 3, 3, 3, 5, 5, 6, 6, 0)


# The envelope of a packet that needs no other is not predicted, and takes a stage more.
INTRA_EXTRA_STAGES = 1


@dataclass(frozen=True)
class CodecConfig:
    """Describe one codec: framing, envelope, quantizer and network sizes.

    Attributes
    ----------
    sample_rate : int           Hz, of everything behind the resampler
    hop_length : int            MDCT hop N in samples; the window is 2N
    blocks_per_packet : int     MDCT blocks that share one envelope, step and packet
    lpc_order : int             order of the LPC analysis
    num_bands : int             bands of the log envelope
    num_stages : int            stages of the envelope MSVQ
    codebook_bits : int         bits per stage; codebook_size = 2**codebook_bits
    log_scale : int             fixed-point units per octave of amplitude (log2 domain)
    log_floor : int             smallest envelope value, in those units
    step_resolution : int       spacing of the transmitted step, in those units
    max_step_delta : int        transmitted step delta lies in [-max, max]
    rounding : float            |q| = floor(|x| / step + rounding): a dead zone of ±0.6
    rdo_lambda : float          price of a bit in squared steps in the encoder's rounding
    allocation_hidden, enhancer_hidden, local_channels, context_hidden : int   network widths
    """

    sample_rate: int = 16000
    hop_length: int = 160
    blocks_per_packet: int = 2
    lpc_order: int = 16
    num_bands: int = 20
    num_stages: int = 4
    codebook_bits: int = 9
    log_scale: int = 256
    log_floor: int = -14 * 256
    step_resolution: int = 16
    max_step_delta: int = 63
    rounding: float = 0.40
    rdo_lambda: float = 0.0
    allocation_hidden: int = 96
    enhancer_hidden: int = 384
    local_channels: int = 24
    context_hidden: int = 64
    band_edges: tuple[int, ...] = BAND_EDGES

    def __post_init__(self) -> None:
        if len(self.band_edges) != self.num_bands + 1 or self.band_edges[-1] != self.hop_length:
            raise ValueError("band_edges must hold num_bands + 1 edges and end at hop_length")

    @property
    def codebook_size(self) -> int:
        """Return K, the number of codewords of each stage."""
        return 1 << self.codebook_bits

    def intra_stages(self, num_stages: int) -> int:
        """Return the envelope stages of a packet that needs no other, where others have these."""
        return min(num_stages + INTRA_EXTRA_STAGES, self.num_stages)

    @property
    def packet_length(self) -> int:
        """Return the samples per packet (320 = 20 ms)."""
        return self.hop_length * self.blocks_per_packet

    @property
    def packet_rate(self) -> float:
        """Return the packets per second (50)."""
        return self.sample_rate / self.packet_length

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types."""
        values = asdict(self)
        values["band_edges"] = list(self.band_edges)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CodecConfig:
        """Build a config from :meth:`to_dict`; unknown keys raise ``ValueError``."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown config keys: {', '.join(sorted(unknown))}")
        values = dict(values)
        if "band_edges" in values:
            values["band_edges"] = tuple(values["band_edges"])
        return cls(**values)
