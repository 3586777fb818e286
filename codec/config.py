"""Constants of the codec, and the sizes of its networks.

The numbers that both sides of the bitstream must share live here and nowhere else. What is fixed by
the format or compiled into the kernels is a constant; what differs from one set of weights to the
other is in :class:`CodecConfig`, which every checkpoint and weights file carries.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, NoReturn

OURS = "nsvq"  # how this codec is called beside others, unless a run names it otherwise

# --- framing --------------------------------------------------------------------------------------

SAMPLE_RATE = 16000  # Hz, of everything behind the resampler
HOP_LENGTH = 160  # N, samples per MDCT block; the window is 2N
BLOCKS_PER_FRAME = 2  # of N coefficients; or one of 2N ("long"), whichever takes fewer bits
FRAME_LENGTH = HOP_LENGTH * BLOCKS_PER_FRAME  # samples: 20 ms
FRAMES_PER_SECOND = SAMPLE_RATE // FRAME_LENGTH
FRAMES_PER_GROUP = 50  # that share a checksum; the first of each is an intra frame
NUM_BLOCK_KINDS = 4  # short: first, second; long: even coefficients, odd ones
DELAY_SAMPLES = FRAME_LENGTH + HOP_LENGTH  # algorithmic delay: 30 ms

LPC_ORDER = 16

# --- rates ----------------------------------------------------------------------------------------

MIN_BITRATE_BPS, MAX_BITRATE_BPS = 8000, 32000
MIN_KBPS, MAX_KBPS = MIN_BITRATE_BPS / 1000, MAX_BITRATE_BPS / 1000
DEFAULT_KBPS = 13.2
MAX_FRAME_BYTES = 255  # of a VBR frame, whose length takes one byte
MAX_FRAME_BITS = 2048  # what allocation and context model know of a frame's size ends here
FINGERPRINT_BYTES = 4  # of the weights' SHA-256, as files carry it

# --- container ------------------------------------------------------------------------------------

MAGIC = b"NSVQ"
FORMAT_VERSION = 7
HEADER_BYTES, CRC_BYTES = 24, 2
TRAILER_BYTES = 7  # at the end of a stream with an open end
MAX_NUM_SAMPLES = (1 << 40) - 1  # of a source
MAX_NUM_STAGES = 8

# --- source audio ---------------------------------------------------------------------------------

MIN_SOURCE_RATE, MAX_SOURCE_RATE = 1000, 768000  # Hz

# The six rates in kbit/s, of the primary modes of EVS, that every table reports.
REPORT_RATES_KBPS: tuple[float, ...] = (8.0, 9.6, 13.2, 16.4, 24.4, 32.0)

# --- envelope and step ----------------------------------------------------------------------------

# 26 bands of at least 100 Hz, in MDCT bins of 50 Hz; one more edge than bands.
BAND_EDGES: tuple[int, ...] = (
    0, 2, 4, 6, 8, 10, 12, 14, 17, 20, 23, 27, 31, 36, 41, 47, 53, 60, 68, 76, 85, 95, 106, 118,
    130, 144, 160,
)  # fmt: skip
BAND_EDGES_HZ = tuple(edge * SAMPLE_RATE / (2 * HOP_LENGTH) for edge in BAND_EDGES)
NUM_BANDS = len(BAND_EDGES) - 1
LOG_ONE = 256  # one octave of amplitude: envelopes and steps are integers in this unit ("Q8")
LOG_FLOOR = -18 * LOG_ONE  # smallest proposed envelope: below the noise of 16 bits
# The level, the mean of the envelope, is a symbol of its own; the rest is its shape.
LEVEL_RESOLUTION = 64  # spacing of levels, Q8 octaves: 1.5 dB
MIN_LEVEL, MAX_LEVEL = -72, 32  # in units of this
INITIAL_LEVEL = -40  # before the first frame, and what intra frames are relative to
MAX_LEVEL_DELTA = MAX_LEVEL - MIN_LEVEL
NUM_LEVEL_CONTEXTS = 7  # distributions of the level delta, chosen by the last one
STEP_RESOLUTION = 16  # spacing of the transmitted step, Q8 octaves
MAX_STEP_DELTA = 63  # the transmitted step delta lies in ± this
NUM_STEP_CONTEXTS = 7  # distributions of the step delta, chosen by the last one
NUM_RATE_KNOTS = 5  # rows of the table of step offsets: 160 bits, then every half octave
# The envelope of an intra frame is not predicted, and takes a stage more.
INTRA_EXTRA_STAGES = 1

# Detail of the envelope, for the decoder's noise: levels of bands of 300 Hz above 1.5 kHz, of each
# block of 10 ms, relative to the envelope. Larger frames spend more stages on it.
DETAIL_EDGES: tuple[int, ...] = (*range(30, 157, 6), 160)
NUM_DETAIL_BANDS = len(DETAIL_EDGES) - 1
DETAIL_SIZE = BLOCKS_PER_FRAME * NUM_DETAIL_BANDS
# It is predicted from the shapes of this frame and the last, and from the last frame's detail.
DETAIL_KNOWN = 2 * NUM_BANDS + DETAIL_SIZE
DETAIL_BITS = 8  # of an index, before entropy coding
DETAIL_FROM_BITS: tuple[int, ...] = (150, 170, 230, 300)  # frame size from which a stage is used
NUM_DETAIL_STAGES = len(DETAIL_FROM_BITS)
# What the analysis tells of a frame: its envelope, and the levels of the detail's bands.
NUM_PROPOSED = NUM_BANDS + DETAIL_SIZE

# --- spectrum -------------------------------------------------------------------------------------

ROUNDING = 0.40  # |level| = floor(|coefficient| / step + this): a dead zone of ±0.6
# Magnitudes of levels: 0..15 have a symbol each; larger ones share a symbol with their neighbours
# and tell them apart by raw bits; the last symbol is followed by an Exp-Golomb code.
MAGNITUDE_BASE: tuple[int, ...] = (
    *range(16), 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 192, 256,
)  # fmt: skip
MAGNITUDE_EXTRA_BITS: tuple[int, ...] = (*(16 * (0,)), 2, 2, 2, 2, 3, 3, 3, 3, 5, 5, 6, 6, 0)
NUM_SYMBOLS = len(MAGNITUDE_BASE)
NUM_FEATURES = 32  # what the context model knows of a coefficient
# Those of a coefficient that depend on levels of its own block (``coding/context.py`` names them).
RECENT_FEATURES = (2, 3, 4, 5, 19, 22, 26, 27, 28)
TABLE_COLUMNS = 4  # shapes of the distributions; rows are their scales

# --- decoder --------------------------------------------------------------------------------------

NUM_LTPF_BANDS = 3  # of the long-term postfilter
NUM_LOSS_FEATURES = 3  # what the enhancer is told of lost packets
GRU_LEAK = 0.98  # share of the enhancer's memory that a frame leaves to the next


class Effort(StrEnum):
    """What the encoder tries; ``Effort(text)`` raises ``ValueError`` for any other text."""

    normal = "normal"
    high = "high"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"effort {value!r}: use {' or '.join(cls)}")


@dataclass(frozen=True)
class CodecConfig:
    """Sizes of one codec's quantizer and networks.

    Attributes
    ----------
    num_stages : int          stages of the envelope MSVQ
    codebook_bits : int       bits per stage; codebook_size = 2**codebook_bits
    table_rows : int          scales of the coefficients' distributions
    analysis_hidden, allocation_hidden, context_hidden, enhancer_hidden : int   network widths
    local_channels : int      of the enhancer's convolutions over frequency
    """

    num_stages: int = 4
    codebook_bits: int = 9
    table_rows: int = 72
    analysis_hidden: int = 96
    allocation_hidden: int = 96
    context_hidden: int = 64
    enhancer_hidden: int = 384
    local_channels: int = 24

    # Constants that training reads from here.
    sample_rate: ClassVar[int] = SAMPLE_RATE
    hop_length: ClassVar[int] = HOP_LENGTH
    blocks_per_packet: ClassVar[int] = BLOCKS_PER_FRAME
    packet_length: ClassVar[int] = FRAME_LENGTH
    packet_rate: ClassVar[float] = SAMPLE_RATE / FRAME_LENGTH
    lpc_order: ClassVar[int] = LPC_ORDER
    num_bands: ClassVar[int] = NUM_BANDS
    band_edges: ClassVar[tuple[int, ...]] = BAND_EDGES
    log_scale: ClassVar[int] = LOG_ONE
    log_floor: ClassVar[int] = LOG_FLOOR
    step_resolution: ClassVar[int] = STEP_RESOLUTION
    max_step_delta: ClassVar[int] = MAX_STEP_DELTA
    rounding: ClassVar[float] = ROUNDING

    @property
    def codebook_size(self) -> int:
        """Return K, the number of codewords of each stage."""
        return 1 << self.codebook_bits

    def intra_stages(self, num_stages: int) -> int:
        """Return the envelope stages of an intra frame, where others have ``num_stages``."""
        return min(num_stages + INTRA_EXTRA_STAGES, self.num_stages)

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CodecConfig:
        """Build a config from :meth:`to_dict`; unknown keys raise ``ValueError``."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown config keys: {', '.join(sorted(unknown))}")
        return cls(**values)
