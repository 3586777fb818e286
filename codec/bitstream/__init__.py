"""The coded file: header, packets in groups of a second, checksums. docs/bitstream.md has it all.

header    fields, checks, trailer           layout    how many packets, of which sizes
group     one group, taken apart            writer    packets in, bytes out
reader    bytes in, packets out             recovery  where a damaged file goes on
output    a place that may take no more
"""

from codec.bitstream.header import (
    Header,
    check_weights,
    read_header,
    write_header,
    write_trailer,
)
from codec.bitstream.layout import (
    FrameLayout,
    cbr_bytes,
    cbr_packet_sizes,
    intra_packets,
    num_codec_samples,
    num_groups,
    num_packets,
    overhead_bytes,
)
from codec.bitstream.reader import BitstreamReader, read_stream, salvage_stream
from codec.bitstream.writer import BitstreamWriter, write_stream
from codec.config import (
    CRC_BYTES,
    FORMAT_VERSION,
    HEADER_BYTES,
    MAGIC,
    MAX_NUM_SAMPLES,
    TRAILER_BYTES,
)
from codec.errors import BitstreamError

__all__ = [
    "CRC_BYTES",
    "FORMAT_VERSION",
    "HEADER_BYTES",
    "MAGIC",
    "MAX_NUM_SAMPLES",
    "TRAILER_BYTES",
    "BitstreamError",
    "BitstreamReader",
    "BitstreamWriter",
    "FrameLayout",
    "Header",
    "cbr_bytes",
    "cbr_packet_sizes",
    "check_weights",
    "intra_packets",
    "num_codec_samples",
    "num_groups",
    "num_packets",
    "overhead_bytes",
    "read_header",
    "read_stream",
    "salvage_stream",
    "write_header",
    "write_stream",
    "write_trailer",
]
