"""Write the kept corpus of nasty files anew: ``python tests/fuzz/corpus.py``.

Findings of the fuzzer, and files made by hand. What each one is, and what has to come of it, stands
in ``nasty/corpus.txt``, which this writes as well; a new finding gets an entry in ``entries``. The
sound files that mutations begin with (``seeds``) are coded anew with the shipped weights; they need
not be when those change.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

FUZZ = Path(__file__).resolve().parent
NASTY = FUZZ / "nasty"
sys.path[:0] = [str(FUZZ.parent.parent), str(FUZZ)]

import mutate  # noqa: E402
from mutate import RATE_AT, SAMPLES_AT, repair_groups, repair_header, set_field  # noqa: E402

from codec import Codec  # noqa: E402
from codec.bitstream import HEADER_BYTES, Header, write_header, write_stream  # noqa: E402
from codec.bitstream import write_trailer as end  # noqa: E402

FINGERPRINT = bytes(4)  # the test stamps in that of the weights
MOST = (1 << 40) - 1


def head(samples: int, rate: int = 16000, bitrate: int = 8000, **flags: bool) -> bytes:
    """Return a header."""
    return write_header(Header(FINGERPRINT, bitrate, samples, rate, 3, **flags))


def sound(count: int, packet: bytes, bitrate: int = 8000, **flags: bool) -> bytes:
    """Return a sound file of equal packets."""
    header = Header(FINGERPRINT, bitrate, 320 * count - 160, 16000, 3, **flags)
    return write_stream(header, [packet] * count)


def field(data: bytes, offset: int, value: bytes) -> bytes:
    """Return the file with another field under a right header CRC."""
    return repair_header(set_field(data, offset, value))


def entries(seeds: mutate.Seeds) -> list[tuple[str, str, str, bytes]]:
    """Return name, outcome, text and bytes of every file."""
    files = dict(zip(seeds.names, seeds.files, strict=True))
    cbr, vbr, groups = files["cbr_13"], files["vbr_8"], files["cbr_8_groups"]
    group = HEADER_BYTES + 50 * 20 + 2
    middle_zero = bytearray(files["vbr_8"])
    middle_zero[HEADER_BYTES + 1 + middle_zero[HEADER_BYTES]] = 0
    return [
        # Findings.
        ("stages_above_weights", "refused",
         "The header names 8 stages, the weights have fewer: info raised IndexError.",
         field(cbr, 7, b"\x08")),
        ("vbr_resync", "salvaged",
         "A damaged VBR group of long packets: salvage tried a checksum of 12 kB at every byte, "
         "1.2 s in this file, for every damaged group in a longer one.",
         head(16000 * 300, vbr=True) + b"\xfe" * 20000),
        ("open_two_bytes_less", "salvaged",
         "Two bytes are missing in the last group: BitstreamReader took its CRC for the end of a "
         "packet and was content with the trailer.",
         files["open"][:77] + files["open"][79:]),
        ("open_surplus", "salvaged",
         "Three bytes before the trailer of an open end: BitstreamReader took them in silence.",
         files["open"][:-7] + b"abc" + files["open"][-7:]),
        # By hand: nothing, or hardly anything.
        ("empty", "refused", "No bytes.", b""),
        ("magic_only", "refused", "Four bytes.", b"NSVQ"),
        ("header_cut", "refused", "One byte less than a header.", cbr[: HEADER_BYTES - 1]),
        ("header_only", "salvaged", "A header that claims 0.2 s, and no packets.",
         cbr[:HEADER_BYTES]),
        ("no_samples", "decoded", "No samples, no packets.", head(0)),
        # Headers.
        ("header_crc", "refused", "One wrong bit in the header.",
         set_field(cbr, 13, bytes([cbr[13] ^ 1]))),
        ("header_length_0", "refused", "Header length 0.", set_field(cbr, 5, b"\0")),
        ("header_length_255_cut", "refused", "Header length 255, the file is shorter.",
         set_field(cbr[:200], 5, b"\xff")),
        ("header_length_255", "decoded", "231 bytes of fields that this program does not know.",
         repair_header(set_field(cbr[:22], 5, b"\xff") + bytes(233) + cbr[24:])),
        ("header_short", "refused", "A header of 16 bytes with a right CRC.",
         repair_header(set_field(cbr, 5, b"\x10"))),
        ("version_0", "refused", "Version 0.", field(cbr, 4, b"\0")),
        ("version_3", "refused", "Version 3, the one before.", field(cbr, 4, b"\3")),
        ("version_255", "refused", "Version 255.", field(cbr, 4, b"\xff")),
        ("flags_all", "refused", "All flags.", field(cbr, 6, b"\xff")),
        ("flags_vbr_open", "refused", "Variable bitrate with an open end.",
         field(cbr, 6, b"\x05")),
        ("bitrate_0", "refused", "0 bit/s: packets of no bytes.", field(cbr, 12, b"\0\0")),
        ("bitrate_65535", "refused", "65535 bit/s.", field(cbr, 12, b"\xff\xff")),
        ("source_rate_0", "refused", "0 Hz.", field(cbr, RATE_AT, b"\0\0\0")),
        # Claims.
        ("claims_most_cbr", "salvaged", "2^40 - 1 samples in 389 bytes.",
         field(cbr, SAMPLES_AT, MOST.to_bytes(5, "big"))),
        ("claims_most_vbr", "salvaged", "The same with VBR.",
         field(vbr, SAMPLES_AT, MOST.to_bytes(5, "big"))),
        ("claims_most_1000_hz", "salvaged",
         "2^40 - 1 samples at 1000 Hz: 2^44 at 16 kHz, 35 years.",
         head(MOST, rate=1000) + bytes(500)),
        ("claims_one_sample", "salvaged", "1 sample, and ten packets.",
         field(cbr, SAMPLES_AT, bytes(4) + b"\x01")),
        ("rate_767999", "decoded", "A rate for which no polyphase filter fits.",
         repair_groups(field(files["rate_768000"], RATE_AT, (767999).to_bytes(3, "big")))),
        ("rate_1000", "decoded", "The lowest rate.", files["rate_1000"]),
        # Packets.
        ("length_0", "salvaged", "The first VBR packet has no bytes.",
         head(4000, vbr=True) + b"\0" * 40),
        ("length_0_within", "salvaged", "The second VBR packet has no bytes.",
         repair_groups(bytes(middle_zero))),
        ("length_255_at_end", "salvaged", "The last length points beyond the end.",
         vbr[:-40] + b"\xff" * 40),
        ("packets_0x00", "decoded", "All bits 0.", sound(20, bytes(80), 32000)),
        ("packets_0xff", "decoded", "All bits 1.", sound(20, b"\xff" * 80, 32000)),
        ("packets_0xff_independent", "decoded", "All bits 1, no prediction.",
         sound(20, b"\xff" * 20, independent=True)),
        ("packets_255", "decoded", "The longest packets there are.",
         sound(20, b"\xff\x7f\x00" * 85, vbr=True)),
        ("packets_1", "decoded", "The shortest packets: 9 bits a packet, CRC included.",
         sound(60, b"\xa5", vbr=True)),
        ("groups_swapped", "salvaged", "Two groups have changed places.",
         groups[:HEADER_BYTES] + groups[group : 2 * group - 24] + groups[HEADER_BYTES:group]
         + groups[2 * group - 24 :]),
        ("glued", "salvaged", "Two files, one behind the other.", cbr + vbr),
        ("independent_flag", "decoded",
         "Predicted packets that are read as independent ones.",
         field(cbr, 6, b"\x02")),
        # Open ends.
        ("open_claims_most", "salvaged", "The trailer says 2^40 - 1 samples.",
         head(0, open_end=True) + bytes(102) + end(MOST)),
        ("open_claims_none", "salvaged", "The trailer says 0 samples, there are five packets.",
         head(0, open_end=True) + bytes(102) + end(0)),
        ("open_nothing", "salvaged", "An open end, and nothing more.", head(0, open_end=True)),
        ("open_trailer_only", "decoded", "A trailer of 0 samples, and nothing more.",
         head(0, open_end=True) + end(0)),
        ("open_no_trailer", "salvaged", "The trailer is missing.",
         head(0, open_end=True) + bytes(102)),
        ("open_in_header", "salvaged", "A trailer that reaches into the header.",
         repair_header(head(0, open_end=True)[:22] + b"\0\0") + b"\0" * 5),
    ]  # fmt: skip


def speech_like(count: int) -> np.ndarray:
    """Return a tone with harmonics whose level and pitch move, float [count] at 16 kHz."""
    n = np.arange(count) / 16000
    phase = 2 * np.pi * (140 * n + 8 * np.sin(2 * np.pi * 0.7 * n))
    tone = sum(np.sin(k * phase) / k for k in range(1, 20))
    noise = np.random.default_rng(0).standard_normal(count)
    return 0.1 * (1 + np.sin(2 * np.pi * 3 * n)) * tone + 0.005 * noise


def main() -> None:
    """Write all files and their list."""
    for folder in (mutate.SEED_DIR, NASTY):
        for path in folder.glob("*.bin"):
            path.unlink()
    mutate.make_seeds(Codec.load(), speech_like(48000))
    lines = []
    for name, outcome, text, data in entries(mutate.Seeds(FINGERPRINT)):
        (NASTY / f"{name}.bin").write_bytes(data)
        lines.append(f"{name:26}{outcome:10}{text}")
    (NASTY / "corpus.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
