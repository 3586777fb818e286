"""Machine code of the kernels: no operation that rounds once where others round twice."""

from typing import Any

import numpy as np

from codec import Codec
from codec.coding import vbr
from codec.decoder import decode_spectra, enhance_spectra, synthesize
from codec.encoder import analyse_frames, encode_frames

# All that they call is part of their code.
KERNELS = (
    analyse_frames, encode_frames, decode_spectra, enhance_spectra, synthesize,
    vbr.frame_energy, vbr.find_demand, vbr.share_bytes,
)  # fmt: skip
FUSED = ("fmadd", "fmsub", "fnmadd", "fnmsub", "fmla", "fmls", "llvm.fma", "llvm.fmuladd")


def machine_code(kernel: Any) -> str:
    """Return what a kernel consists of, as text.

    ``inspect_asm`` says nothing of kernels that come from the cache; so it is made anew from the
    optimised code that the cache keeps, by the same compiler for the same processor.
    """
    texts = []
    for compiled in kernel.overloads.values():
        library = compiled.library
        module = library._get_module_for_linking()
        texts.append(library._codegen._tm.emit_assembly(module))
    assert texts, f"{kernel.__name__} was not called"
    return "\n".join(texts).lower()


def test_no_fused_operations(codec: Codec, speech: np.ndarray) -> None:
    """A fused multiply-add, where a processor has one, gives other bits than x and +."""
    codec.decode(codec.encode(speech[:3200], vbr=True))
    for kernel in KERNELS:
        text = machine_code(kernel)
        assert "mul" in text, kernel.__name__  # it is code, and computes
        for fused in FUSED:
            assert fused not in text, f"{kernel.__name__}: {fused}"
