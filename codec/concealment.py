"""Packet loss concealment: what stands in for packets that did not arrive.

::

    samples before the loss ─► lag ─► last period repeated ─► MDCT ─► "bins" of the lost packet
    last envelope, step ─► held, then fading ─────────────────────────► its envelope, step
    lost, length of the gap, time since ──────────────────────────────► enhancer, which knows

The enhancer, trained with losses, does the rest: it turns the repeated bins down where the signal
was not periodic and puts noise there, and mends the packets that follow. All of this is float and
comes after the last symbol is decoded.

References
----------
ITU-T G.711 Appendix I, 1999 (pitch waveform repetition).
Lecomte et al., "Packet-loss concealment technology advances in EVS", ICASSP 2015 (concealment in
the MDCT domain of a codec with both).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from codec.config import CodecConfig
from codec.mdct import mdct_matrix
from codec.postfilter import FRAME, MIN_LAG, track_pitch

NUM_LOSS_FEATURES = 3
# Octaves of amplitude by which each further packet of a gap is lower: -3 dB every 20 ms.
FADE = 0.5
# Packets after a gap of which the enhancer is told that it was there: few enough that none is
# among those on which its memory warms up in the second half of the next group (codec/decoder.py).
RECOVERY = 8
SILENCE = -14.0  # octaves: the envelope's floor


@dataclass(frozen=True)
class Pitch:
    """Lag in samples and periodicity 0..1 of the signal before a gap."""

    lag: int
    periodicity: float


@dataclass(frozen=True)
class Concealed:
    """What was filled in.

    Attributes
    ----------
    features : float32 [P, NUM_LOSS_FEATURES]   what the enhancer is told of every packet
    pitch : dict                                Pitch of each lost packet
    """

    features: np.ndarray
    pitch: dict[int, Pitch]


@lru_cache(maxsize=1)
def _double_matrix(hop_length: int) -> np.ndarray:
    return mdct_matrix(hop_length).double().numpy()


def repeat_period(history: np.ndarray, lag: int, hop_length: int) -> np.ndarray:
    """Return the MDCT of the two blocks that follow ``history`` if its last period goes on.

    Parameters
    ----------
    history : float64 array, shape [>= lag]   finished samples
    lag : int

    Returns
    -------
    float64 array, shape [2, N]
    """
    period = history[len(history) - lag :]
    ahead = np.tile(period, -(-3 * hop_length // lag))[: 3 * hop_length]
    frames = np.stack([ahead[: 2 * hop_length], ahead[hop_length:]])
    result: np.ndarray = frames @ _double_matrix(hop_length)
    return result


class Concealment:
    """Fill in lost packets, one unit of packets after the other.

    Parameters
    ----------
    config : CodecConfig
    """

    def __init__(self, config: CodecConfig) -> None:
        self.config = config
        self.gap = 0  # packets lost in a row, up to now
        self.since = RECOVERY  # packets received in a row
        self.pitch = Pitch(MIN_LAG, 0.0)
        self.envelope = np.full(config.num_bands, SILENCE, np.float32)
        self.band_step = np.full(config.num_bands, SILENCE, np.float32)
        self.log_bits = np.float32(8.0)

    def copy(self) -> Concealment:
        """Return a copy that goes its own way."""
        return copy.copy(self)

    def fill(
        self,
        received: np.ndarray,
        coded: np.ndarray,
        spectrum: np.ndarray,
        envelope: np.ndarray,
        band_step: np.ndarray,
        log_bits: np.ndarray,
    ) -> Concealed:
        """Write stand-ins for lost packets in place, and move on past the packets.

        Parameters
        ----------
        received : bool [P]                       the packets that are there; the arrays may go on
        coded : float64 [FRAME + P' * 2N]         finished samples before the packets, and what the
                                                  packets' bins make, zeros where they are lost
        spectrum : float64 [P' * 2, N]            their dequantized bins
        envelope, band_step : float32 [P', bands] octaves
        log_bits : float32 [P']

        Returns
        -------
        Concealed
        """
        hop = self.config.hop_length
        features = np.zeros((len(log_bits), NUM_LOSS_FEATURES), np.float32)
        pitch = {}
        for p, there in enumerate(received):
            if there:
                # The value 1 in the first packet after a gap, half of it in each further one.
                if self.since < RECOVERY:
                    features[p, 2] = 0.5**self.since
                self.gap, self.since = 0, min(self.since + 1, RECOVERY)
                self.envelope, self.band_step = envelope[p].copy(), band_step[p].copy()
                self.log_bits = log_bits[p]
                continue
            start = FRAME + 2 * hop * p  # samples finished before this packet
            history = coded[start - FRAME : start]
            if self.gap == 0:
                lag, similarity = track_pitch(torch.from_numpy(history.copy())[None], hop)
                self.pitch = Pitch(int(lag[0, 0]), float(similarity[0, 0]))
            else:
                self.envelope = np.maximum(self.envelope - np.float32(FADE), np.float32(SILENCE))
            blocks = repeat_period(history, self.pitch.lag, hop)
            if self.gap:
                blocks *= 2.0**-FADE
            spectrum[2 * p : 2 * p + 2] = blocks
            frames = blocks @ _double_matrix(hop).T  # [2, 2N]
            for block in range(2):
                place = start + block * hop
                frame = frames[block][: len(coded) - place]
                coded[place : place + len(frame)] += frame
            envelope[p], band_step[p], log_bits[p] = self.envelope, self.band_step, self.log_bits
            features[p, 0] = 1.0
            features[p, 1] = min(self.gap, 8) / 8
            pitch[p] = self.pitch
            self.gap, self.since = self.gap + 1, 0
        return Concealed(features, pitch)
