"""Read a coded file, whole or piece by piece, strictly or so that what is intact of it is kept."""

from __future__ import annotations

from dataclasses import replace

from codec.bitstream.group import Group
from codec.bitstream.header import Header, find_header, read_header, read_trailer
from codec.bitstream.layout import FrameLayout
from codec.bitstream.recovery import Search, highest_group
from codec.config import (
    FRAME_LENGTH,
    FRAMES_PER_SECOND,
    HOP_LENGTH,
    SAMPLE_RATE,
    TRAILER_BYTES,
)
from codec.errors import BitstreamError

AGAIN = "copy it again"
SALVAGE = ", or keep what is intact with --salvage"


def read_stream(data: bytes) -> tuple[Header, list[bytes]]:
    """Return header and packets of a whole file, all of it checked.

    Raises
    ------
    BitstreamError   anything is wrong, see the messages
    """
    reader = BitstreamReader()
    packets = reader.push(data) + reader.finish()
    assert reader.header is not None
    return reader.header, [packet for packet in packets if packet is not None]


def salvage_stream(data: bytes) -> tuple[Header, list[bytes | None], list[str]]:
    """Return what is intact of a damaged file.

    The header must be sound. Packets of damaged groups are None; where bytes were lost or inserted,
    reading goes on at the next place at which groups are sound. Those of a last group that is cut
    off are kept as far as they are whole, though no CRC vouches for them.

    Returns
    -------
    Header                  with an open end whose trailer is lost: as many samples as there are
    list of bytes or None   at most num_packets(num_codec_samples(header)); what is missing at the
                            end is lost
    list of str             one line per problem, empty for a sound file

    Raises
    ------
    BitstreamError   the header is damaged
    """
    reader = BitstreamReader(tolerant=True)
    packets = reader.push(data) + reader.finish()
    assert reader.header is not None
    return reader.header, packets, reader.problems


class BitstreamReader:
    """Read a file piece by piece: bytes in, packets out.

    Packets come out as soon as they are whole; the CRC of their group comes after them, and a wrong
    one raises. A tolerant reader holds packets back until the CRC has vouched for them, gives None
    for those of damaged groups and raises for the header only.

    Parameters
    ----------
    tolerant : bool   keep what is intact of a damaged file

    Attributes
    ----------
    header : Header or None   None until it is there; with an open end, its number of samples is
                              right after `finish`
    problems : list of str    what a tolerant reader has found to be wrong, one line each

    Examples
    --------
    >>> from codec.bitstream import BitstreamReader, Header, write_stream
    >>> header = Header(bytes(4), 8000, 161, 16000, 4)
    >>> data = write_stream(header, [bytes(20), bytes(20)])
    >>> reader = BitstreamReader()
    >>> [len(reader.push(data[i : i + 30])) for i in range(0, len(data), 30)], reader.finish()
    ([0, 1, 1], [])
    """

    def __init__(self, tolerant: bool = False) -> None:
        self.header: Header | None = None
        self.problems: list[str] = []
        self._tolerant = tolerant
        self._data = bytearray()  # from the header, then from the group or the search on
        self._base = 0  # place of its first byte, behind the header
        self._surplus = 0
        self._search: Search | None = None  # in a tolerant reader, behind a damaged group

    def push(self, data: bytes) -> list[bytes | None]:
        """Take in bytes and return the packets that they complete.

        Raises
        ------
        BitstreamError   as `read_stream`, as soon as it can be known
        """
        self._data += data
        if self.header is None:
            found = find_header(bytes(self._data[:256]))
            if found is None:
                return []
            self.header, length = found
            del self._data[:length]
            self._layout = FrameLayout.of(self.header, self.header.open_end)
            self._group = Group(self._layout, 0)
        packets = self._read(at_end=False)
        if self._is_complete() and self._data:
            self._surplus += len(self._data)
            self._data.clear()
            if not self._tolerant:
                raise BitstreamError(_surplus_message(self._surplus) + SALVAGE)
        return packets

    def finish(self) -> list[bytes | None]:
        """Check that the file ends here; return the packets that were held back.

        Raises
        ------
        BitstreamError   it does not end here
        """
        if self.header is None:
            self.header, _ = read_header(bytes(self._data))  # raises: push has found it incomplete
        if self.header.open_end:
            self._read_trailer()
        packets = self._read(at_end=True)
        if not self._is_complete():
            return packets + self._give_up()
        surplus = self._surplus + len(self._data)
        if surplus and not self._tolerant:
            raise BitstreamError(_surplus_message(surplus) + SALVAGE)
        if surplus:
            self.problems.append(_surplus_message(surplus))
        return packets

    # --- one group after the other ----------------------------------------------------------------

    def _is_complete(self) -> bool:
        return self._search is None and self._group.index == self._layout.num_groups

    def _read(self, at_end: bool) -> list[bytes | None]:
        """Return the packets that can be had of the bytes that are there."""
        packets: list[bytes | None] = []
        while not self._is_complete():
            group = self._group
            if self._search is not None:
                if not self._resynchronise(packets, at_end):
                    break
            elif group.advance(self._data):
                if group.fault:
                    self._begin_search()
                elif group.closed:
                    packets += group.packets if self._tolerant else []
                    self._begin_group(group.index + 1, group.end)
                elif not self._tolerant:
                    packets.append(group.packets[-1])
            elif at_end and self._tolerant:
                # Cut off; or bytes were lost before, and these belong to a later group.
                self._begin_search()
            else:
                break
        return packets

    def _begin_group(self, index: int, start: int) -> None:
        self._drop(start)
        self._group = Group(self._layout, index)

    def _drop(self, num_bytes: int) -> None:
        del self._data[:num_bytes]
        self._base += num_bytes

    # --- damage -----------------------------------------------------------------------------------

    def _begin_search(self) -> None:
        group = self._group
        if not self._tolerant:
            end = group.first + self._layout.group_packets(group.index)
            raise BitstreamError(self._damage_message(group.first, end, group.fault) + SALVAGE)
        self._search = Search(group, self._base)

    def _resynchronise(self, packets: list[bytes | None], at_end: bool) -> bool:
        """Go on at the next sound group, if there is one yet; add None for what is lost."""
        search = self._search
        assert search is not None
        found = search.find(self._layout, self._data, self._base, at_end)
        if found is None:
            self._drop(search.position - self._base)
            return False
        damaged, why = search.damaged, search.damaged.fault or "a wrong length"
        if not self._layout.vbr:
            surplus = self._base + found.start - search.start
            surplus -= self._layout.group_start(found.index)
            surplus += self._layout.group_start(damaged.index)
            if surplus:
                noun, verb = ("byte", "is") if abs(surplus) == 1 else ("bytes", "are")
                why = f"{abs(surplus)} {noun} " + ("too many" if surplus > 0 else f"{verb} missing")
        self.problems.append(self._damage_message(damaged.first, found.first, why))
        packets += [None] * (found.first - damaged.first)
        self._search = None
        self._begin_group(found.index, found.start)
        return True

    # --- the end ----------------------------------------------------------------------------------

    def _read_trailer(self) -> None:
        """Look for the number of samples at the end of the bytes; take it if it can be right."""
        assert self.header is not None
        samples = read_trailer(bytes(self._data[-TRAILER_BYTES:]))
        if samples is None:
            return
        header = replace(self.header, num_samples=samples)
        layout = FrameLayout.of(header)
        assert layout.num_packets is not None and layout.num_groups is not None
        if self._tolerant:
            highest = int(highest_group(self._layout, self._base + len(self._data)))
            fits = self._group.first <= layout.num_packets and layout.num_groups <= highest + 1
        else:
            fits = layout.num_packets == self._group.first + len(self._group.packets)
        if fits:
            self.header, self._layout, self._group.layout = header, layout, layout
            del self._data[-TRAILER_BYTES:]

    def _give_up(self) -> list[bytes | None]:
        """Return what can be had of the end of a file that cannot be followed to its end."""
        group, layout = self._group, self._layout
        assert self.header is not None
        if self._search is None:
            raise BitstreamError(self._cut_off_message(group.first + len(group.packets)) + SALVAGE)
        packets: list[bytes | None] = []
        if not group.fault and not (self.header.open_end and layout.num_packets is not None):
            packets += group.packets
            self.problems.append(self._cut_off_message(group.first + len(packets)))
        else:
            why = group.fault or "a wrong length"
            self.problems.append(self._damage_message(group.first, None, why))
            left = self._base + len(self._data) - self._search.start
            lost = layout.packets_in(left, group.index)
            if layout.num_packets is not None:
                rest = layout.num_packets - group.first
                is_last = group.closed and group.index + 1 == layout.num_groups
                lost = rest if self.header.open_end or is_last else min(lost, rest)
            packets += [None] * lost
        if layout.num_packets is None:
            # As long as the packets that are there.
            length = max((group.first + len(packets)) * FRAME_LENGTH - HOP_LENGTH, 0)
            samples = length * self.header.source_sample_rate // SAMPLE_RATE
            self.header = replace(self.header, num_samples=samples)
        return packets

    # --- messages ---------------------------------------------------------------------------------

    def _time(self, packet: int) -> str:
        """Return where a packet begins in the signal, such as '1.3 s'."""
        seconds = packet / FRAMES_PER_SECOND
        if self.header is not None and self._layout.num_packets is not None:
            seconds = min(seconds, self.header.duration)
        return f"{seconds:.1f} s"

    def _damage_message(self, first: int, end: int | None, why: str) -> str:
        times = [self._time(packet) for packet in (first, end) if packet is not None]
        if end is None:
            where = f"after {times[0]}"
        else:
            where = (
                f"between {times[0]} and {times[1]}" if times[0] != times[1] else f"at {times[0]}"
            )
        return f"the file is damaged {where} ({why}): {AGAIN}"

    def _cut_off_message(self, count: int) -> str:
        assert self.header is not None
        if self.header.open_end:
            why = f"it does not end with its length; {AGAIN}"
            return f"the file is cut off after {self._time(count)}: {why}"
        whole = f"{self.header.duration:.1f} s"
        return f"the file is cut off after {self._time(count)} of {whole}: {AGAIN}"


def _surplus_message(num_bytes: int) -> str:
    what = "is 1 byte" if num_bytes == 1 else f"are {num_bytes} bytes"
    return f"there {what} too many at the end of the file: {AGAIN}"
