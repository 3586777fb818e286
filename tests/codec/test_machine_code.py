"""Machine code of the kernels: no operation that rounds once where others round twice."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from codec import Codec
from codec.jit import cache_folder

# All that they call is part of their code.
ENTRIES = (
    "analyse_frames", "encode_frames", "decode_spectra", "enhance_spectra", "synthesize",
    "frame_energy", "find_levels", "laplace_bits", "total_bytes_of", "combine_rules", "share_bytes",
)  # fmt: skip
FUSED = re.compile(r"\bv?fn?m(add|sub|la|ls)\w*|\bfma", re.IGNORECASE)
# ELF and Mach-O begin so; what stands before it in a file is of the cache.
OBJECT = re.compile(rb"\x7fELF|\xcf\xfa\xed\xfe")


def machine_code(file: Path, folder: Path) -> str:
    """Return the machine code in a file of the cache, as text."""
    data = file.read_bytes()
    begin = OBJECT.search(data)
    assert begin, file
    code = folder / "code.o"
    code.write_bytes(data[begin.start() :])
    command = ["objdump", "-d", "--no-show-raw-insn", str(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump (binutils)")
def test_no_fused_operations(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    """A fused multiply-add, where a processor has one, gives other bits than x and +."""
    assert (
        FUSED.search("  vfmadd231ps %ymm0") and FUSED.search("  fmla v0.4s") and FUSED.search("fma")
    )
    codec.decode(codec.encode(speech[:3200], vbr=True))
    folder = cache_folder()
    assert folder is not None
    for name in ENTRIES:
        files = list(folder.glob(f"{name}-*.o"))
        assert files, name
        for file in files:
            text = machine_code(file, tmp_path)
            assert "mul" in text, file  # it is code, and computes
            found = FUSED.search(text)
            assert not found, f"{file}: {found}"
