"""Batches that the runtime has coded, to train the enhancer alone.

The graph is differentiable from end to end, and only comes near the encoder: it counts the bits of
Laplace sources, where the encoder has its context model. Where nothing of the encoder is trained,
the runtime codes the crops, faster and as in use. It does so in a thread, one step ahead.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from codec import decoder, encoder
from codec.bitstream import intra_packets
from codec.coding.vbr import MIN_FRAME_BYTES
from codec.config import BLOCKS_PER_FRAME, FRAME_LENGTH, FRAMES_PER_GROUP, HOP_LENGTH
from codec.enhancer_network import PARAMETERS
from codec.weights import Weights
from models.enhancer import DecodedFrames
from models.training.config import TrainConfig
from models.training.data import CropSampler
from models.training.distributed import ProcessGroup
from models.training.sampling import Batch, draw_batch

# Parts that must be frozen.
ENCODER = ("analysis", "msvq", "intra_msvq", "detail", "intra_detail", "allocation")


def check_coded(config: TrainConfig) -> None:
    """Refuse settings with which the runtime cannot code the crops.

    Raises
    ------
    ValueError   no weights to code with, or parts of the encoder that are trained
    """
    if not config.init_from:
        raise ValueError("--coded needs weights to code with: give --init-from")
    if set(ENCODER) - set(config.freeze.split(",")):
        raise ValueError(f"--coded trains the decoder alone: give --freeze {','.join(ENCODER)}")


def decoded_frames(
    parameters: np.ndarray, spectra: np.ndarray, lossy: bool, device: str = "cpu"
) -> DecodedFrames:
    """Return what the runtime's enhancer is given for the graph's.

    Parameters
    ----------
    parameters : PARAMETERS [B, F]
    spectra : float32 [B, F, 2, N]
    lossy : bool                     some frames may be lost
    """

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return DecodedFrames(
        tensor(spectra),
        tensor(parameters["uncoded"]),
        tensor(parameters["envelope"]),
        tensor(parameters["log_step"]),
        tensor(parameters["log_bits"]),
        tensor(parameters["long"] == 1),
        tensor(parameters["lag"]),
        tensor(parameters["periodicity"]),
        tensor(parameters["detail"]),
        tensor(parameters["loss"]) if lossy else None,
    )


class CodedBatches:
    """Draw the batch of a step, and what the decoder has of it before the enhancer.

    Parameters
    ----------
    weights : Weights   of the encoder, and of the decoder up to there
    """

    def __init__(
        self, config: TrainConfig, sampler: CropSampler, weights: Weights, group: ProcessGroup
    ) -> None:
        self.config, self.sampler, self.group = config, sampler, group
        self.codec = weights.config
        self.models = encoder.make_model(weights), decoder.make_model(weights)
        self.ahead: tuple[int, Future[tuple[Batch, DecodedFrames]]] | None = None
        self.thread = ThreadPoolExecutor(1)

    def draw(self, step: int) -> tuple[Batch, DecodedFrames]:
        """Return batch and frames of a step; those of the next one are begun."""
        if self.ahead is None or self.ahead[0] != step:
            self.ahead = step, self.thread.submit(self._make, step)
        made = self.ahead[1].result()
        self.ahead = step + 1, self.thread.submit(self._make, step + 1)
        return made

    def _make(self, step: int) -> tuple[Batch, DecodedFrames]:
        stages = self.codec.num_stages
        batch = draw_batch(self.config, self.sampler, step, stages, self.group)
        # Sequences begin anywhere in a group of frames, whose first one is intra.
        rng, own = np.random.default_rng([self.config.seed, step, 5]), len(batch.waveform)
        phases = rng.integers(FRAMES_PER_GROUP, size=(self.group.size, own))[self.group.rank]
        coded = [self._code(batch, i, int(phase)) for i, phase in enumerate(phases)]
        parameters = np.stack([told for told, _ in coded])
        spectra = np.stack([spectrum for _, spectrum in coded])
        # The parts for losses always run: all processes need gradients of the same parameters.
        return batch, decoded_frames(parameters, spectra, True, self.config.device)

    def _code(self, batch: Batch, i: int, phase: int) -> tuple[np.ndarray, np.ndarray]:
        """Code a sequence; return what the enhancer is told [F], and the spectra [F, 2, N]."""
        lost = batch.lost[i].cpu().numpy()
        count, stages = len(lost), int(batch.num_stages[i])
        sizes = batch.frame_bits[i].cpu().numpy().astype(np.int64) // 8
        intra = intra_packets(count, bool(batch.intra[i]), phase)
        intra[0] = True
        wave = np.zeros(count * FRAME_LENGTH, np.float32)
        wave[: batch.waveform.shape[1]] = batch.waveform[i].cpu().numpy()
        coder = encoder.FrameEncoder(self.models[0], self.codec, stages, keep_offset=True)
        packets = coder.encode(*coder.analyse(wave), np.maximum(sizes, MIN_FRAME_BYTES), intra)
        kept = [b"" if gone else packet for gone, packet in zip(lost, packets, strict=True)]
        data = np.frombuffer(b"".join(kept), np.uint8).copy()
        sizes = np.array([len(packet) for packet in kept], np.int64)
        parameters = np.zeros(count, PARAMETERS)
        spectra = np.empty((count, BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
        state = decoder.FrameDecoder(self.models[1], self.codec, stages).state
        decoder.decode_spectra(self.models[1], state, (data, sizes), intra, parameters, spectra)
        return parameters, spectra
