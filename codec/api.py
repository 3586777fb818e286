"""Python interface: :class:`Codec` encodes waveforms to bytes and decodes bytes to waveforms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from codec import decoder, encoder
from codec.bitstream import (
    Header,
    cbr_bytes,
    cbr_packet_sizes,
    check_weights,
    intra_packets,
    num_codec_samples,
    num_packets,
    read_stream,
    salvage_stream,
    write_stream,
)
from codec.coding.vbr import frame_energies, vbr_sizes
from codec.config import DEFAULT_KBPS, HOP_LENGTH, MAX_KBPS, MIN_KBPS, SAMPLE_RATE
from codec.decoder import DecodedIntegers, FrameDecoder
from codec.encoder import FrameEncoder
from codec.io.channels import MIX, check_samples, to_mono
from codec.io.resample import from_codec_rate, to_codec_rate
from codec.jit import is_cached
from codec.weights import Weights, load_weights


class Codec:
    """Encode and decode speech with one set of trained weights.

    A codec holds nothing that coding changes: it may be used in several threads at once (the
    interpreter lock is released while a signal is coded), after a fork, and pickled.

    Attributes
    ----------
    sample_rate : int    16000, the rate at which the codec works
    fingerprint : str    hex fingerprint of the weights, as files carry it

    Examples
    --------
    >>> import numpy as np
    >>> from codec import Codec
    >>> c = Codec.load()
    >>> wave = 0.1 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    >>> data = c.encode(wave, 16000, bitrate=13.2)
    >>> len(c.decode(data))
    16000
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.config = weights.config
        self.sample_rate = SAMPLE_RATE
        self.fingerprint = weights.fingerprint.hex()

    @cached_property
    def _encoder(self) -> Any:
        return encoder.make_model(self.weights)

    @cached_property
    def _decoder(self) -> Any:
        return decoder.make_model(self.weights)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the weights alone."""
        return Codec, (self.weights,)

    @classmethod
    def load(cls, weights: str | Path | None = None) -> Codec:
        """Load the shipped weights, or those of a ``.safetensors`` file made by training.

        Raises
        ------
        codec.errors.WeightsError   the file is missing, damaged or of another version
        """
        return cls(load_weights(Path(weights) if weights is not None else None))

    @staticmethod
    def is_compiled() -> bool:
        """Tell whether the kernels are in the cache (else the first call takes long)."""
        return is_cached("encode_frames", "decode_spectra", "enhance_spectra")

    def frame_encoder(
        self, header: Header, keep_offset: bool = False, effort: str = "normal"
    ) -> FrameEncoder:
        """Return an encoder of the frames of a file with this header."""
        return FrameEncoder(self._encoder, self.config, header.num_stages, keep_offset, effort)

    def frame_decoder(self, header: Header) -> FrameDecoder:
        """Return a decoder of the frames of a file with this header."""
        return FrameDecoder(self._decoder, self.config, header.num_stages)

    def encode(
        self,
        wave: Any,
        sample_rate: int = SAMPLE_RATE,
        bitrate: float = DEFAULT_KBPS,
        vbr: bool = False,
        independent: bool = False,
        channel: int | str = MIX,
        keep_offset: bool = False,
        effort: str = "normal",
    ) -> bytes:
        """Encode a waveform to the bytes of a file.

        Parameters
        ----------
        wave : array or Tensor, shape [T], [channels, T] or [T, channels]
            floats within ±1, or integer PCM
        sample_rate : int       Hz; other rates than 16000 are resampled
        bitrate : float         kbit/s, 8 to 32
        vbr : bool              spend the same average rate where it helps most
        independent : bool      intra frames only: what is lost takes nothing with it
        channel : 'mix' or int  downmix of all channels, or the number of one, from 1
        keep_offset : bool      code the mean of the signal (DC) as well. It takes bits that
                                nobody hears, so it is taken off else
        effort : str            'normal', or 'high' to try several envelopes and both block lengths

        Returns
        -------
        bytes

        Raises
        ------
        ValueError                  bitrate out of range, a wave of wrong shape, unknown effort
        codec.errors.AudioError     NaN, infinite or absurdly large samples
        """
        mono = to_mono(wave, channel)
        header = self.header(len(mono), sample_rate, bitrate, vbr, independent)
        at_codec_rate = to_codec_rate(mono, sample_rate)
        return self.encode_codec_rate(at_codec_rate, header, keep_offset, effort)

    def encode_codec_rate(
        self,
        waveform: np.ndarray,
        header: Header,
        keep_offset: bool = False,
        effort: str = "normal",
    ) -> bytes:
        """Encode a waveform that is at 16 kHz already, float32 [T], under a header.

        Raises
        ------
        codec.errors.AudioError   NaN, infinite or absurdly large samples
        """
        check_samples(waveform, "the wave")
        count = num_packets(num_codec_samples(header))
        coder = self.frame_encoder(header, keep_offset, effort)
        spectra, proposed = coder.analyse(waveform, count)
        if header.vbr:
            sizes = self.vbr_packet_sizes(header, [proposed], frame_energies(spectra))
        else:
            sizes = np.array(cbr_packet_sizes(header.nominal_bitrate_bps, count), np.int64)
        intra = intra_packets(count, header.independent)
        return write_stream(header, coder.encode(spectra, proposed, sizes, intra))

    def vbr_packet_sizes(
        self, header: Header, proposed: Iterable[np.ndarray], energy: np.ndarray
    ) -> np.ndarray:
        """Return the bytes of every packet at a variable bitrate, int64 [P].

        Parameters
        ----------
        header : Header
        proposed : float32 arrays [any, NUM_PROPOSED]   of all frames, as analysis gives them; no
                                                        iterator
        energy : float32 [P]                      of all frames: `frame_energies`
        """
        # Each packet's length byte is paid from the same total.
        total = cbr_bytes(header.nominal_bitrate_bps, len(energy)) - len(energy)
        bits = header.num_stages * (self.config.codebook_bits - 1)
        return vbr_sizes(self._encoder["coding"], proposed, energy, total, bits)

    def header(
        self,
        num_samples: int,
        sample_rate: int,
        bitrate: float,
        vbr: bool = False,
        independent: bool = False,
        open_end: bool = False,
    ) -> Header:
        """Return the header of a file that this codec writes.

        Raises
        ------
        ValueError   bitrate out of range, or a sample rate that is no whole number
        """
        if not MIN_KBPS <= bitrate <= MAX_KBPS:
            raise ValueError(
                f"bitrate {bitrate:.10g} kbit/s is out of range: use {MIN_KBPS:g} to {MAX_KBPS:g}"
            )
        if not math.isfinite(sample_rate) or sample_rate != int(sample_rate):
            raise ValueError(f"sample rate {sample_rate} Hz is no whole number: round it first")
        bitrate_bps = round(bitrate * 1000)
        return Header(
            fingerprint=self.weights.fingerprint,
            nominal_bitrate_bps=bitrate_bps,
            num_samples=num_samples,
            source_sample_rate=int(sample_rate),
            num_stages=self.config.num_stages,
            vbr=vbr,
            independent=independent,
            open_end=open_end,
        )

    def check_header(self, header: Header) -> None:
        """Check that a file with this header can be decoded.

        Raises
        ------
        BitstreamError   it was coded with other weights
        """
        check_weights(header, self.weights.fingerprint, self.config.num_stages)

    def decode_integers(self, data: bytes) -> tuple[Header, DecodedIntegers]:
        """Return the header and all integers of a file."""
        header, packets = read_stream(data)
        self.check_header(header)
        intra = intra_packets(len(packets), header.independent)
        return header, self.frame_decoder(header).integers(packets, intra)

    def decode(self, data: bytes, rate: str = "codec") -> np.ndarray:
        """Decode the bytes of a file.

        Parameters
        ----------
        data : bytes
        rate : 'codec' | 'source'   sample rate of the result: 16 kHz, or that of the source

        Returns
        -------
        float32 array, shape [T]   exactly as long as the input was

        Raises
        ------
        codec.BitstreamError   not a file of this codec, damaged, or other weights
        """
        if rate not in ("codec", "source"):
            raise ValueError(f"rate is '{rate}': use 'codec' or 'source'")
        return self.decode_with_rate(data, rate == "source")[0]

    def decode_with_rate(self, data: bytes, source_rate: bool = False) -> tuple[np.ndarray, int]:
        """Decode and return the waveform with its sample rate in Hz."""
        return self._decode(*read_stream(bytes(data)), source_rate)

    def _decode(
        self, header: Header, packets: Sequence[bytes | None], source_rate: bool
    ) -> tuple[np.ndarray, int]:
        self.check_header(header)
        intra = intra_packets(len(packets), header.independent)
        samples = self.frame_decoder(header).decode(packets, intra)
        # The first block's first half lies before the signal.
        waveform = samples[HOP_LENGTH : HOP_LENGTH + num_codec_samples(header)]
        if source_rate and header.source_sample_rate != SAMPLE_RATE:
            # Of a file that was cut off, less is there than the header says.
            there = -(-len(waveform) * header.source_sample_rate // SAMPLE_RATE)
            count = min(header.num_samples, there)
            waveform = from_codec_rate(waveform, header.source_sample_rate, count)
            return waveform, header.source_sample_rate
        return waveform, SAMPLE_RATE

    def decode_lossy(self, data: bytes, lost: np.ndarray) -> np.ndarray:
        """Decode a file as if some of its packets had been lost on the way.

        Parameters
        ----------
        data : bytes
        lost : bool array, shape [P]   False for all that it does not cover

        Returns
        -------
        float32 array, shape [T], 16 kHz

        Raises
        ------
        codec.BitstreamError   as :meth:`decode`
        """
        header, packets = read_stream(data)
        gone = np.zeros(len(packets), np.bool_)
        gone[: len(lost)] = lost[: len(packets)]
        kept = [None if g else packet for g, packet in zip(gone, packets, strict=True)]
        return self._decode(header, kept, False)[0]

    def salvage(self, data: bytes, source_rate: bool = False) -> tuple[np.ndarray, int, list[str]]:
        """Decode what is intact of a damaged file, and conceal the rest.

        Parameters
        ----------
        data : bytes
        source_rate : bool   return the rate of the source instead of 16 kHz

        Returns
        -------
        waveform : float32 array, shape [T]   as long as the header says, or as far as data go
                                              beyond which there is nothing to conceal
        sample_rate : int                     Hz
        problems : list of str                one line each; empty for a sound file

        Raises
        ------
        codec.BitstreamError   the header is damaged, or names other weights
        """
        header, packets, problems = salvage_stream(data)
        waveform, rate = self._decode(header, packets, source_rate)
        return waveform, rate, problems
