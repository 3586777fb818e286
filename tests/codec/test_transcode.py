"""Files in pieces: the bytes of the whole, in memory that does not grow."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import Codec
from codec.errors import AudioError, BitstreamError, CodecError, WeightsError
from codec.io.audio import read_audio
from codec.io.output import FORMATS, open_sink
from codec.io.storage import Location
from codec.io.wav import write_wav
from codec.pieces import DecodeOptions, EncodeOptions, Outcome, Stopped
from codec.transcode import Coder, attempt, choose_target, decode_file, encode_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory, speech: np.ndarray) -> Path:
    """Speech of 5 s at 44.1 kHz in two channels, several blocks long."""
    path = tmp_path_factory.mktemp("stereo") / "in.flac"
    x = np.tile(speech, 5)[: 5 * 44100 + 17]
    soundfile.write(path, np.stack([x, 0.3 * x], 1), 44100)
    return path


@pytest.mark.parametrize("vbr, intra_only", [(False, False), (True, False), (False, True)])
def test_the_bytes_are_those_of_the_whole(
    codec: Codec, stereo: Path, tmp_path: Path, vbr: bool, intra_only: bool
) -> None:
    outcome = encode_file(codec, stereo, tmp_path / "a.bin", EncodeOptions(9.6, vbr, intra_only))
    wave, rate, notes = read_audio(stereo)
    data = (tmp_path / "a.bin").read_bytes()
    assert data == codec.encode(wave, rate, 9.6, vbr, intra_only)
    assert outcome.notes == [*notes, "resampled from 44100 to 16000 Hz"]
    assert (outcome.num_samples, outcome.sample_rate, outcome.num_bytes) == (
        len(wave), 44100, len(data)
    )  # fmt: skip


@pytest.mark.parametrize("source_rate", [False, True])
def test_the_samples_are_those_of_the_whole(
    codec: Codec, stereo: Path, tmp_path: Path, source_rate: bool
) -> None:
    encode_file(codec, stereo, tmp_path / "a.bin", EncodeOptions())
    options = DecodeOptions(None if source_rate else 16000)
    outcome = decode_file(codec, tmp_path / "a.bin", tmp_path / "a.wav", options)
    data = (tmp_path / "a.bin").read_bytes()
    wave, rate = codec.decode_with_rate(data, source_rate)
    write_wav(tmp_path / "whole.wav", wave, rate)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    assert (outcome.num_samples, outcome.sample_rate) == (len(wave), rate)


def test_salvage_is_that_of_the_whole(codec: Codec, stereo: Path, tmp_path: Path) -> None:
    encode_file(codec, stereo, tmp_path / "a.bin", EncodeOptions())
    data = bytearray((tmp_path / "a.bin").read_bytes())
    data[len(data) // 2] ^= 1
    del data[-100:]
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(BitstreamError):
        decode_file(codec, tmp_path / "a.bin", tmp_path / "a.wav", DecodeOptions())
    assert not (tmp_path / "a.wav").exists()
    outcome = decode_file(
        codec, tmp_path / "a.bin", tmp_path / "a.wav", DecodeOptions(salvage=True)
    )
    wave, rate, problems = codec.salvage(bytes(data))
    write_wav(tmp_path / "whole.wav", wave, rate)
    assert outcome.problems == problems
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()


def test_a_length_that_nobody_announced(codec: Codec, stereo: Path, tmp_path: Path) -> None:
    """FLAC as encoders write it into a pipe has the right header when it is coded."""
    data = bytearray(stereo.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    encode_file(codec, tmp_path / "a.flac", tmp_path / "a.bin", EncodeOptions())
    encode_file(codec, stereo, tmp_path / "b.bin", EncodeOptions())
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_given_up(codec: Codec, stereo: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        encode_file(codec, stereo, tmp_path / "a.bin", EncodeOptions(), stop)
    assert list(tmp_path.iterdir()) == []


# --- one file -------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_file_becomes_one_line() -> None:
    errors = {
        "1": AudioError("1: is bad"), "2": OSError(28, "No space left on device", "t/2"),
        "3": MemoryError(), "4": KeyError("bug"), "5": ValueError("without a name"),
    }  # fmt: skip

    def work(source: Location, target: Location, stop: threading.Event | None) -> Outcome:
        if str(source) in errors:
            raise errors[str(source)]
        return Outcome(source, target)

    outcomes = [attempt(work, Path(str(i)), Path("t") / str(i)) for i in range(7)]
    assert [str(outcome.source) for outcome in outcomes] == [str(i) for i in range(7)]
    assert [outcome.error for outcome in outcomes] == [
        "", "1: is bad", "t/2: No space left on device", "3: not enough memory",
        "4: internal error (KeyError('bug')); please report it", "5: without a name", "",
    ]  # fmt: skip


def test_what_concerns_all_files_is_raised() -> None:
    for error in (WeightsError("no weights"), Stopped()):

        def work(
            source: Location, target: Location, stop: threading.Event | None, error=error
        ) -> Outcome:
            raise error

        with pytest.raises(type(error)):
            attempt(work, Path("a"), Path("b"))


def test_a_coder_refuses_other_weights_and_versions(codec: Codec) -> None:
    assert Coder(EncodeOptions(), None, codec.fingerprint)()
    with pytest.raises(WeightsError, match=f"has weights {codec.fingerprint}, here are 01234567"):
        Coder(EncodeOptions(), None, "01234567")()
    with pytest.raises(WeightsError, match="version .*, here is 0.0.0"):
        Coder(EncodeOptions(), None, None, "0.0.0")()


def test_a_coder_goes_by_pickle(codec: Codec, stereo: Path, tmp_path: Path) -> None:
    coder = pickle.loads(pickle.dumps(Coder(EncodeOptions(16.4), None, codec.fingerprint)))
    outcome = coder()(stereo, tmp_path / "a.bin", None)
    encode_file(codec, stereo, tmp_path / "b.bin", EncodeOptions(16.4))
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert (outcome.source, outcome.target) == (stereo, tmp_path / "a.bin")


# --- where outputs go -----------------------------------------------------------------------------


def test_choose_target(tmp_path: Path) -> None:
    source, folder = tmp_path / "a.wav", tmp_path / "folder"
    source.touch()
    folder.mkdir()
    for target, wanted in (
        (None, tmp_path / "a.bin"),
        (str(tmp_path / "x.y"), tmp_path / "x.y"),
        (str(folder), folder / "a.bin"),
        (f"{tmp_path}/new/", tmp_path / "new" / "a.bin"),
    ):
        assert choose_target(source, target, ".bin", False) == wanted
    assert choose_target(folder, f"{tmp_path}/new/", ".bin", False) == tmp_path / "new"
    assert choose_target(Path("-"), str(source), ".bin", False) == source
    (tmp_path / "a.bin").touch()
    assert choose_target(source, None, ".bin", True) == tmp_path / "a.bin"
    assert choose_target(source, str(tmp_path / "a.bin"), ".bin", False) == tmp_path / "a.bin"
    for target in (None, str(source), f"{source}/x"):
        with pytest.raises(CodecError):
            choose_target(source, target, ".bin", False)
    for target in (None, str(source), str(folder)):
        with pytest.raises(CodecError):
            choose_target(folder, target, ".bin", True)


def test_without_a_folder_for_temporary_files(
    codec: Codec, stereo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a minute and less need none, whatever the bitrate and the output."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    for options in (EncodeOptions(), EncodeOptions(vbr=True)):
        encode_file(codec, stereo, tmp_path / "a.bin", options)
        pipe = io.BytesIO()
        encode_file(codec, stereo, pipe, options)
        assert pipe.getvalue() == (tmp_path / "a.bin").read_bytes()
    decode_file(codec, tmp_path / "a.bin", tmp_path / "a.wav", DecodeOptions())
    assert soundfile.info(tmp_path / "a.wav").frames == -(-(5 * 44100 + 17) * 160 // 441)


# --- memory ---------------------------------------------------------------------------------------

_MEASURE = """
import sys
from codec import Codec
from codec.pieces import DecodeOptions, EncodeOptions
from codec.transcode import decode_file, encode_file

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024

codec = Codec.load()
peaks = []
for vbr in (False, True):
    for name in ("short", "long"):
        source, target = f"{sys.argv[1]}/{name}.wav", f"{sys.argv[1]}/{name}.bin"
        encode_file(codec, source, target, EncodeOptions(vbr=vbr))
        peaks.append(peak())
for name in ("short", "long"):
    out = f"{sys.argv[1]}/{name}.out.wav"
    decode_file(codec, f"{sys.argv[1]}/{name}.bin", out, DecodeOptions(None))
    peaks.append(peak())
print(*peaks)
"""


@pytest.mark.parametrize("minutes", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_signal(
    speech: np.ndarray, tmp_path: Path, minutes: int
) -> None:
    frames = np.stack([np.tile(speech, 3)[: 3 * 48000]] * 2, 1)
    for name, repeats in (("short", 1), ("long", 20 * minutes)):
        with soundfile.SoundFile(tmp_path / f"{name}.wav", "w", 48000, 2) as file:
            for _ in range(repeats):
                file.write(frames)
    command = [sys.executable, "-c", _MEASURE, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    peaks = list(map(int, result.stdout.split()))
    print(f"peaks in MB: {peaks}")
    limit = 10 if minutes == 1 else 20  # a minute of samples as they are read has 22 MB
    assert peaks[1] - peaks[0] < limit
    assert peaks[3] - peaks[2] < limit
    assert peaks[5] - peaks[4] < limit
    assert peaks[-1] < 300


@pytest.mark.parametrize(
    ("name", "rate", "works"),
    [
        ("a.flac", 65535, True), ("a.flac", 65536, False), ("a.flac", 384000, True),
        ("a.flac", 655360, False), ("a.ogg", 200000, True), ("a.ogg", 200001, False),
        ("a.opus", 44100, False), ("a.mp3", 96000, False), ("a.wav", 768000, True),
    ],
)  # fmt: skip
def test_rates_of_formats(codec: Codec, tmp_path: Path, name: str, rate: int, works: bool) -> None:
    """What libsndfile or libvorbis cannot write, or crash of, is refused before."""
    coded = tmp_path / "a.bin"
    coded.write_bytes(codec.encode(np.zeros(800), 16000))
    target = tmp_path / name
    if works:
        decode_file(codec, coded, target, DecodeOptions(rate))
        assert soundfile.info(target).samplerate == rate
        return
    with pytest.raises(AudioError, match=f"has no {rate} Hz; use "):
        decode_file(codec, coded, target, DecodeOptions(rate))
    assert not target.exists()


@pytest.mark.parametrize("name", ["flac", "mp3", "opus"])
def test_formats_that_cannot_be_empty(codec: Codec, tmp_path: Path, name: str) -> None:
    coded = tmp_path / "a.bin"
    coded.write_bytes(codec.encode(np.zeros(0), 16000))
    with pytest.raises(AudioError, match="there are no samples"):
        decode_file(codec, coded, tmp_path / f"a.{name}", DecodeOptions(16000))
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_long_first_piece_of_vorbis(tmp_path: Path) -> None:
    """libvorbis puts it on the stack: decoded silence, or a long hole, comes in one piece."""
    target = tmp_path / "a.ogg"
    with open(target, "w+b") as file:
        sink = open_sink(file, FORMATS["ogg"], 16000, None, True)
        sink.write(np.random.default_rng(0).standard_normal(4_000_000).astype(np.float32) * 0.1)
        sink.finish()
    assert soundfile.info(target).frames == 4_000_000


def test_permissions_of_an_output_that_is_replaced(codec: Codec, tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.touch(0o600)
    target.chmod(0o600)
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16000)
    encode_file(codec, tmp_path / "a.wav", target, EncodeOptions())
    assert target.stat().st_size > 0 and target.stat().st_mode & 0o777 == 0o600
