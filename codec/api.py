"""Python interface: :class:`Codec` encodes waveforms to bytes and decodes bytes to waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec.audio import AudioError, from_codec_rate, to_codec_rate
from codec.bitstream import (
    Header,
    cbr_packet_sizes,
    check_weights,
    intra_packets,
    num_codec_samples,
    num_packets,
    read_stream,
    salvage_stream,
    write_stream,
)
from codec.decoder import DecodedIntegers, decode_integers, synthesise
from codec.encoder import default_stages, encode_packets, encode_waveform
from codec.weights import Weights, load_weights
from models.enhancer import Enhancer
from models.envelope import EnvelopeAnalysis

MIN_KBPS, MAX_KBPS = 8.0, 32.0


class Codec:
    """Encode and decode speech with one set of trained weights.

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
        self.sample_rate = weights.config.sample_rate
        self.fingerprint = weights.fingerprint.hex()
        self.analysis = EnvelopeAnalysis(self.config).eval().requires_grad_(False)
        self.enhancer = Enhancer(self.config).eval().requires_grad_(False)
        for part in ("analysis", "enhancer"):
            state = {
                name.removeprefix(part + "."): torch.from_numpy(value.astype(np.float32))
                for name, value in weights.networks.items()
                if name.startswith(part + ".")
            }
            getattr(self, part).load_state_dict(state)

    @classmethod
    def load(cls, weights: str | Path | None = None) -> Codec:
        """Load the shipped weights, or those of a ``.safetensors`` file made by training.

        Raises
        ------
        codec.weights.WeightsError   the file is missing, damaged or of another version
        """
        return cls(load_weights(Path(weights) if weights is not None else None))

    @staticmethod
    def is_compiled() -> bool:
        """Tell whether numba has the packet coder in its cache (else the first call takes long)."""
        cache = getattr(encode_packets, "_cache", None)
        folder = Path(getattr(cache, "cache_path", ""))
        return any(folder.glob("encoder.encode_packets-*.nbi"))

    def encode(
        self,
        wave: Any,
        sample_rate: int = 16000,
        bitrate: float = 13.2,
        vbr: bool = False,
        independent: bool = False,
    ) -> bytes:
        """Encode a waveform to the bytes of a file.

        Parameters
        ----------
        wave : array or Tensor, shape [T] or [C, T]   ±1; channels are averaged
        sample_rate : int     Hz; other rates than 16000 are resampled
        bitrate : float       kbit/s, 8 to 32
        vbr : bool            spend the same average rate where it helps most
        independent : bool    no packet needs another: what is lost takes nothing with it

        Returns
        -------
        bytes

        Raises
        ------
        ValueError                 bitrate out of range or a wave of wrong shape
        codec.audio.AudioError     NaN or infinite samples
        """
        mono = _to_mono(wave)
        header = self.header(len(mono), int(sample_rate), bitrate, vbr, independent)
        waveform = to_codec_rate(mono, int(sample_rate))
        count = num_packets(num_codec_samples(header))
        sizes = cbr_packet_sizes(header.nominal_bitrate_bps, count)
        # With VBR, each packet's length byte is paid from the same total.
        packets, _ = encode_waveform(
            self.weights.tables, self.config, self.analysis, waveform, None if vbr else sizes,
            header.num_stages, sum(sizes) - count, count, self.weights.intra,
            intra_packets(count, independent),
        )  # fmt: skip
        return write_stream(header, packets)

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
        ValueError   bitrate out of range
        """
        if not MIN_KBPS <= bitrate <= MAX_KBPS:
            raise ValueError(
                f"bitrate {bitrate:g} kbit/s is out of range: use {MIN_KBPS:g} to {MAX_KBPS:g}"
            )
        bitrate_bps = round(bitrate * 1000)
        return Header(
            fingerprint=self.weights.fingerprint,
            nominal_bitrate_bps=bitrate_bps,
            num_samples=num_samples,
            source_sample_rate=sample_rate,
            num_stages=min(default_stages(bitrate_bps), self.config.num_stages),
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
        """Return the header and all integers of a file (exact on every machine)."""
        header, packets = read_stream(data)
        return header, self._integers(header, packets)

    def _integers(self, header: Header, packets: Sequence[bytes | None]) -> DecodedIntegers:
        self.check_header(header)
        return decode_integers(
            self.weights.tables, self.config, packets, header.num_stages, self.weights.intra,
            intra_packets(len(packets), header.independent),
        )  # fmt: skip

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
        return self._waveform(*self.decode_integers(data), source_rate)

    def _waveform(
        self, header: Header, integers: DecodedIntegers, source_rate: bool
    ) -> tuple[np.ndarray, int]:
        waveform = synthesise(self.enhancer, self.config, integers, num_codec_samples(header))
        if source_rate and header.source_sample_rate != self.sample_rate:
            # Of a file that was cut off, less is there than the header says.
            there = -(-len(waveform) * header.source_sample_rate // self.sample_rate)
            count = min(header.num_samples, there)
            waveform = from_codec_rate(waveform, header.source_sample_rate, count)
            return waveform, header.source_sample_rate
        return waveform, self.sample_rate

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
        return self._waveform(header, self._integers(header, kept), False)[0]

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
        integers = self._integers(header, packets)
        waveform, rate = self._waveform(header, integers, source_rate)
        return waveform, rate, problems


def _to_mono(wave: Any) -> np.ndarray:
    if isinstance(wave, torch.Tensor):
        wave = wave.detach().cpu().to(torch.float32 if wave.is_floating_point() else wave.dtype)
        wave = wave.numpy()
    wave = np.asarray(wave)
    if not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"the wave holds {wave.dtype} values: give floats within ±1")
    if wave.ndim == 2 and len(wave):
        wave = wave.mean(0)
    if wave.ndim != 1:
        raise ValueError(f"the wave has shape {wave.shape}: give [T] or [channels, T]")
    wave = wave.astype(np.float32)
    if not np.isfinite(wave).all():
        raise AudioError("the wave holds NaN or infinite samples: repair it before encoding")
    return wave
