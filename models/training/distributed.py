"""Several training processes that act as one: slices of the batch, sums over ranks, agreement.

::

    rank 0   crops 0 .. b-1     ─► gradient ─┐
    rank 1   crops b .. 2b-1    ─► gradient ─┴─► mean ─► same optimizer step on every rank

Gradients are averaged by one all-reduce of one flat vector instead of by DistributedDataParallel.
DDP waits for the gradient of every parameter that its outputs lead to, and in the hard phase the
envelope's quantizer is such an output without being part of the loss; it would need a wrapper
around network and loss and a walk through the graph in every step. The gradients are some
megabytes, so there is nothing to win by overlapping their exchange with the backward pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# Rank 0 validates while the others wait in the next all-reduce.
TIMEOUT = timedelta(hours=2)
# CPU generators look at the lowest 32 bits of a seed only: the offset of a rank must be in them.
RANK_SEED = 2_654_435_761


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together; by default this one alone, and then nothing is sent.

    Attributes
    ----------
    rank, size : int   this process, and how many there are
    device : str       where tensors to be exchanged lie: 'cpu' (gloo) or 'cuda' (nccl)
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def main(self) -> bool:
        """Return whether this is the process that writes, logs, validates and exports."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """Return this rank's share [B / size, ...] of a global batch [B, ...]."""
        share = len(batch) // self.size
        return batch[self.rank * share : (self.rank + 1) * share]

    def _call(self, collective: object, *arguments: object) -> None:
        try:
            collective(*arguments)  # type: ignore[operator]
        except RuntimeError as error:
            raise ConnectionError(
                f"training process {self.rank} lost another one: see what that one said ({error})"
            ) from error

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over the ranks, bit-equal on all of them; return it."""
        if self.size > 1:
            self._call(dist.all_reduce, tensor)
        return tensor

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Return the mean over the ranks of named scalars."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if self.size > 1:
            stacked = self.sum_(stacked) / self.size
        return dict(zip(values, stacked.tolist(), strict=True))

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their mean over the ranks.

        Parameters without a gradient keep none: which they are depends on the step, not the rank.
        A gradient that is not finite on one rank is not finite on any rank afterwards.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.sum_(torch.cat([g.flatten() for g in gradients])) / self.size
        for gradient, mean in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))

    @torch.no_grad()
    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                self._call(dist.broadcast, tensor.detach(), 0)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on some rank."""
        if self.size == 1:
            return flag
        return bool(self.sum_(torch.tensor([float(flag)], device=self.device)) > 0)

    @contextmanager
    def agreement(self) -> Iterator[None]:
        """Raise an error of one rank on all of them, so that no rank waits for one that left.

        Raises
        ------
        ValueError   another rank failed; the message says which, and why
        """
        if self.size == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        messages: list[str | None] = [None] * self.size
        self._call(dist.all_gather_object, messages, None if failure is None else str(failure))
        if failure is not None:
            raise failure
        for rank, message in enumerate(messages):
            if message is not None:
                raise ValueError(f"training process {rank}: {message}")


ALONE = ProcessGroup()


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that ``torchrun`` started; without it, this process trains alone.

    Parameters
    ----------
    device : 'cpu' | 'cuda'   with 'cuda', each process takes the GPU of its local rank

    Raises
    ------
    ValueError   this machine or build of torch cannot do it
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup(device=device)
        return
    missing = [k for k in ("RANK", "LOCAL_RANK", "MASTER_ADDR") if k not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {size} but {missing[0]} is not set: start the processes with torchrun"
        )
    backend = "nccl" if device == "cuda" else "gloo"
    if not dist.is_available() or not dist.is_backend_available(backend):
        raise ValueError(f"this build of torch has no {backend}: train in one process")
    if device == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(
                f"no GPU is left for process {local} of this machine: "
                f"use --nproc-per-node={gpus} or --device cpu"
            )
        torch.cuda.set_device(local)  # from here on 'cuda' is this GPU
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
