"""Python interface: :class:`Codec` encodes waveforms to bytes and decodes bytes to waveforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec.audio import AudioError, from_codec_rate, to_codec_rate
from codec.bitstream import (
    BitstreamError,
    Header,
    cbr_packet_sizes,
    check_fingerprint,
    num_codec_samples,
    num_packets,
    read_stream,
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
        self, wave: Any, sample_rate: int = 16000, bitrate: float = 13.2, vbr: bool = False
    ) -> bytes:
        """Encode a waveform to the bytes of a file.

        Parameters
        ----------
        wave : array or Tensor, shape [T] or [C, T]   ±1; channels are averaged
        sample_rate : int     Hz; other rates than 16000 are resampled
        bitrate : float       kbit/s, 8 to 32
        vbr : bool            spend the same average rate where it helps most

        Returns
        -------
        bytes

        Raises
        ------
        ValueError                 bitrate out of range or a wave of wrong shape
        codec.audio.AudioError     NaN or infinite samples
        """
        if not MIN_KBPS <= bitrate <= MAX_KBPS:
            raise ValueError(
                f"bitrate {bitrate:g} kbit/s is out of range: use {MIN_KBPS:g} to {MAX_KBPS:g}"
            )
        mono = _to_mono(wave)
        bitrate_bps = round(bitrate * 1000)
        num_stages = min(default_stages(bitrate_bps), self.config.num_stages)
        header = Header(
            fingerprint=self.weights.fingerprint,
            nominal_bitrate_bps=bitrate_bps,
            num_samples=len(mono),
            source_sample_rate=int(sample_rate),
            num_stages=num_stages,
            vbr=vbr,
        )
        waveform = to_codec_rate(mono, int(sample_rate))
        count = num_packets(num_codec_samples(header))
        sizes = cbr_packet_sizes(bitrate_bps, count)
        if vbr:
            # Each packet's length byte is paid from the same total.
            packets, _ = encode_waveform(
                self.weights.tables, self.config, self.analysis, waveform, None, num_stages,
                sum(sizes) - count, count,
            )  # fmt: skip
        else:
            packets, _ = encode_waveform(
                self.weights.tables, self.config, self.analysis, waveform, sizes, num_stages
            )
        return write_stream(header, packets)

    def decode_integers(self, data: bytes) -> tuple[Header, DecodedIntegers]:
        """Return the header and all integers of a file (exact on every machine)."""
        header, packets = read_stream(data)
        check_fingerprint(header, self.weights.fingerprint)
        if header.num_stages > self.config.num_stages:
            raise BitstreamError(
                f"the header names {header.num_stages} envelope stages, the weights have "
                f"{self.config.num_stages}: the file is damaged, copy it again"
            )
        integers = decode_integers(self.weights.tables, self.config, packets, header.num_stages)
        return header, integers

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
        header, integers = self.decode_integers(data)
        waveform = synthesise(self.enhancer, self.config, integers, num_codec_samples(header))
        if source_rate and header.source_sample_rate != self.sample_rate:
            waveform = from_codec_rate(waveform, header.source_sample_rate, header.num_samples)
            return waveform, header.source_sample_rate
        return waveform, self.sample_rate


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
