"""Find the next sound group behind a damaged one, where bytes were changed, lost or inserted.

A CRC is linear. With x the variable of its polynomials over GF(2), modulo the generator, the CRC of
the bytes d[a] … d[b - 1] with start value s is

    c = s x^(8 (b - a)) + sum of d[i] x^(8 (b - i) + 8), a <= i < b,

so, where Q[k] is the sum of d[i] x^(8 - 8 i) over i < k,

    s = x^(8 a) (c x^(-8 b) + Q[a] + Q[b]).

A group's start value is 0xFFFF xor its index, so this tells for all places at once which group
would be sound if it began there. Each has a right checksum by chance once in 65536; the more places
and indices there are to choose from, the more sound groups in a row are asked for. The end of the
file, where the last group has to end, counts like one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from codec.bitstream.group import Group
from codec.bitstream.header import CRC_START
from codec.bitstream.layout import FrameLayout
from codec.config import CRC_BYTES, FRAMES_PER_GROUP, MAX_FRAME_BYTES

GENERATOR, PERIOD = 0x11021, 32767  # x^32767 = 1
# How many sound groups in a row are believed: where one should be when no byte was lost, after up
# to so many lost groups, and after any number.
IN_STEP, NEAR, FAR = 1, 2, 3
NEAR_GROUPS = 3
# Never are more groups taken for lost than the bytes up to there could have held, and a minute.
SPARE_GROUPS = 60
MAX_BLOCK = 1 << 16  # places that are looked at together


def highest_group(layout: FrameLayout, position: np.ndarray | int) -> np.ndarray:
    """Return the highest index that a group so many bytes behind the header may have.

    So time and memory grow with the bytes that are there, whatever hostile ones claim.
    """
    smallest = 2 * FRAMES_PER_GROUP if layout.vbr else layout.bitrate_bps // 8
    limit = SPARE_GROUPS + 2 * np.asarray(position) // (smallest + CRC_BYTES)
    return limit if layout.num_groups is None else np.minimum(limit, layout.num_groups - 1)


class Search:
    """Look for the place at which a damaged file goes on.

    Places are counted from the end of the header.

    Parameters
    ----------
    damaged : Group   the group that is not sound
    start : int       place at which it began

    Attributes
    ----------
    start : int       place at which the damaged group began
    position : int    all places before this one have been ruled out
    """

    def __init__(self, damaged: Group, start: int) -> None:
        self.damaged = damaged
        self.start = self.position = start
        # Where the next group is if nothing but contents were damaged.
        self._next = start + damaged.end - damaged.start if damaged.closed else None

    def find(
        self, layout: FrameLayout, data: bytes | bytearray, base: int, at_end: bool
    ) -> Group | None:
        """Return a group that is sound and goes on in file order.

        Parameters
        ----------
        layout : FrameLayout
        data : bytes           from place `position`, or one before it, on
        base : int             place of the first byte of `data`
        at_end : bool          no more bytes will follow these

        Returns
        -------
        Group or None   None: there is none yet; bytes before `position` are no longer needed
        """
        if self._next is not None:
            if layout.group_packets(self.damaged.index + 1):
                group = Group(layout, self.damaged.index + 1, self._next - base).read(data)
                if group.sound:
                    return group
                if not (group.closed or group.fault or at_end):
                    return None
            self._next = None
        block = largest = _largest_group(layout)
        stop = len(data) if at_end else len(data) - FAR * largest
        first = self.position - base
        if not at_end and stop - first < block:
            return None
        while first < stop:
            last = min(first + block, stop)
            window = bytes(data[first : last + largest])
            for place, index, end in self._candidates(layout, window, last - first, base + first):
                group = Group(layout, index, first + place)
                if self._is_confirmed(layout, data, base, group, first + end, at_end):
                    return group
            first = last
            self.position = base + first
            block = min(2 * block, MAX_BLOCK)
        return None

    def _candidates(
        self, layout: FrameLayout, window: bytes, count: int, base: int
    ) -> list[tuple[int, int, int]]:
        """Return place, index and end of all that may be groups and begin at the first places."""
        found = []
        sums = _sums(window)
        for key, starts, ends in _spans(layout, window, count, self.damaged.index):
            index = _start_values(sums, window, starts, ends) ^ CRC_START
            # The next group, from the damaged one on, whose index has these low 16 bits.
            index = self.damaged.index + ((index - self.damaged.index) & 0xFFFF)
            for i in np.flatnonzero(index <= highest_group(layout, base + starts)):
                if _key(layout, int(index[i])) == key:
                    found.append((int(starts[i]), int(index[i]), int(ends[i]) + CRC_BYTES))
        return sorted(found)

    def _is_confirmed(
        self,
        layout: FrameLayout,
        data: bytes | bytearray,
        base: int,
        group: Group,
        end: int,
        at_end: bool,
    ) -> bool:
        """Tell whether enough sound groups follow one with a right checksum, from its end on."""
        skipped = group.index - self.damaged.index
        needed = NEAR if skipped <= NEAR_GROUPS else FAR
        if not layout.vbr and base + group.start - self.start == (
            layout.group_start(group.index) - layout.group_start(self.damaged.index)
        ):
            if skipped == 0:
                return False  # it is the damaged one itself
            needed = IN_STEP
        sound, index = 1, group.index + 1
        while sound < needed and layout.group_packets(index):
            following = Group(layout, index, end).read(data)
            if not following.sound:
                return False
            sound, index, end = sound + 1, index + 1, following.end
        return sound + (at_end and end == len(data)) >= needed


def _largest_group(layout: FrameLayout) -> int:
    """Return the most bytes that a group takes, CRC included."""
    if layout.vbr:
        return (1 + MAX_FRAME_BYTES) * FRAMES_PER_GROUP + CRC_BYTES
    return -(-layout.bitrate_bps // 8) + CRC_BYTES


def _key(layout: FrameLayout, index: int) -> int:
    """Return what tells how long a group is: its bytes with CBR, its packets with VBR."""
    return layout.group_packets(index) if layout.vbr else layout.group_bytes(index)


def _spans(
    layout: FrameLayout, window: bytes, count: int, first_group: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield, for each kind of group, where all whole ones begin and where their CRCs are."""
    kinds = {_key(layout, first_group + i) for i in range(8)}  # rates repeat after 8 groups
    if layout.num_groups:
        kinds.add(_key(layout, layout.num_groups - 1))
    space = len(window) - CRC_BYTES
    for kind in sorted(kinds - {0}):
        starts = ends = np.arange(min(count, space + 1))
        if layout.vbr:
            # Where the packet ends whose length byte stands here; a length of 0 leads nowhere.
            lengths = np.frombuffer(window, np.uint8).astype(np.int64)
            after = np.arange(1, len(window) + 1) + lengths
            after[(lengths == 0) | (after > space)] = len(window)
            after = np.append(after, len(window))
            for _ in range(kind):
                ends = after[ends]
        else:
            ends = starts + kind
        whole = ends <= space
        yield kind, starts[whole], ends[whole]


@lru_cache(maxsize=1)
def _powers() -> np.ndarray:
    """Return x^e for e = 0..32766, uint32; then they repeat."""
    powers, value = [], 1
    for _ in range(PERIOD):
        powers.append(value)
        value = (value << 1) ^ (GENERATOR if value & 0x8000 else 0)
    return np.array(powers, np.uint32)


def _power(exponents: np.ndarray) -> np.ndarray:
    return _powers()[exponents % PERIOD]


def _multiply(a: np.ndarray, b: np.ndarray, bits: int = 16) -> np.ndarray:
    """Return the products of polynomials, uint32 arrays; those of `b` have so many bits."""
    product = np.zeros_like(a)
    for bit in range(bits - 1, -1, -1):
        product = (product << 1) ^ (product >> 15) * np.uint32(GENERATOR)
        product ^= a * ((b >> np.uint32(bit)) & 1)
    return product


def _sums(window: bytes) -> np.ndarray:
    """Return Q[0] … Q[n], uint32 (see the module)."""
    values = np.frombuffer(window, np.uint8).astype(np.uint32)
    terms = _multiply(_power(8 - 8 * np.arange(len(values))), values, bits=8)
    return np.concatenate([np.zeros(1, np.uint32), np.bitwise_xor.accumulate(terms)])


def _start_values(
    sums: np.ndarray, window: bytes, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Return the CRC start values, int64, with which window[start:end] has the CRC behind it."""
    values = np.frombuffer(window, np.uint8).astype(np.uint32)
    crc = values[ends] << np.uint32(8) | values[ends + 1]
    total = _multiply(crc, _power(-8 * ends)) ^ sums[starts] ^ sums[ends]
    return _multiply(total, _power(8 * starts)).astype(np.int64)
