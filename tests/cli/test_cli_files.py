"""encode, decode and info of single files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_helpers import (
    NUM_SAMPLES,
    OLD,
    assert_user_error,
    run,
    run_process,
    shared_stream,
    shared_wav,
    voice,
)

from codec.bitstream import read_header
from codec.config import Effort
from codec.io.wav import Samples


@pytest.fixture(scope="module")
def wav() -> Path:
    return shared_wav()


@pytest.fixture(scope="module")
def stream() -> Path:
    return shared_stream()


def test_encode_info_decode(wav: Path, tmp_path: Path) -> None:
    coded, decoded = tmp_path / "new" / "out.bin", tmp_path / "also" / "new" / "out.wav"
    result = run("encode", wav, coded, "--bitrate", "9.6")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert str(coded) in result.stdout

    result = run("info", coded, "--json")
    assert result.exit_code == 0, result.output
    info = json.loads(result.stdout)
    assert info["nominal_kbps"] == pytest.approx(9.6)
    assert info["num_samples"] == NUM_SAMPLES
    assert info["source_sample_rate"] == 16000
    assert info["vbr"] is False
    assert info["file_bytes"] == coded.stat().st_size
    assert info["payload_kbps"] == pytest.approx(9.6, rel=0.02)
    assert sum(info["share"].values()) == pytest.approx(1, abs=1e-6)
    text = run("info", coded).stdout
    assert "9.6 kbit/s" in text
    assert "envelope" in text

    result = run("decode", coded, decoded)
    assert result.exit_code == 0, result.output
    file = soundfile.info(decoded)
    assert (file.samplerate, file.channels, file.frames) == (16000, 1, NUM_SAMPLES)
    assert file.subtype == "PCM_16"
    reference, _ = soundfile.read(wav)
    assert np.corrcoef(reference, soundfile.read(decoded)[0])[0, 1] > 0.5
    assert not list(tmp_path.rglob("*.tmp"))


def test_same_bytes_in_another_process(wav: Path, stream: Path, tmp_path: Path) -> None:
    result = run_process("encode", wav, tmp_path / "out.bin")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.bin").read_bytes() == stream.read_bytes()


def test_vbr(wav: Path, tmp_path: Path) -> None:
    result = run("encode", wav, tmp_path / "out.bin", "--vbr", "--bitrate", 16.4)
    assert result.exit_code == 0, result.output
    assert read_header((tmp_path / "out.bin").read_bytes())[0].vbr
    assert run("decode", tmp_path / "out.bin", tmp_path / "out.wav").exit_code == 0
    assert soundfile.info(tmp_path / "out.wav").frames == NUM_SAMPLES


@pytest.mark.parametrize("option", ["--intra-only", "--independent-packets"])
def test_intra_only(wav: Path, tmp_path: Path, option: str) -> None:
    result = run("encode", wav, tmp_path / "a.bin", option)
    assert result.exit_code == 0, result.output
    assert read_header((tmp_path / "a.bin").read_bytes())[0].independent
    assert "independent" in run("info", tmp_path / "a.bin").stdout


def test_effort(wav: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{effort}.bin" for effort in Effort]
    for effort, file in zip(Effort, files, strict=True):
        assert run("encode", wav, file, "--effort", effort).exit_code == 0
        assert run("decode", file, tmp_path / "out.wav", "--force").exit_code == 0
    assert len(files[0].read_bytes()) == len(files[1].read_bytes())
    assert files[0].read_bytes() != files[1].read_bytes()


def test_keep_offset(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", 0.2 + 0.5 * voice(NUM_SAMPLES), 16000)
    means = []
    for options in ((), ("--keep-offset",), ("--keep-offset", "--vbr")):
        assert run("encode", tmp_path / "in.wav", tmp_path / "a.bin", *options).exit_code == 0
        assert run("decode", tmp_path / "a.bin", tmp_path / "a.wav").exit_code == 0
        means.append(soundfile.read(tmp_path / "a.wav")[0].mean())
    np.testing.assert_allclose(means, [0.0, 0.2, 0.2], atol=0.02)


def test_44100_hz_stereo_and_sample_rates(tmp_path: Path) -> None:
    num_samples = 30011
    mono = voice(num_samples, 44100)
    soundfile.write(tmp_path / "in.wav", np.stack([mono, 0.5 * mono], 1), 44100)
    result = run("encode", tmp_path / "in.wav", tmp_path / "out.bin")
    assert result.exit_code == 0, result.output
    notes = result.stderr.splitlines()
    assert len(notes) == 2
    assert "mono" in notes[0]
    assert "44100" in notes[1]
    for options, rate in (
        ([], 16000),
        (["--rate", "source"], 44100),
        (["--sample-rate", "8000"], 8000),
        (["--sample-rate", "48000", "--rate", "source"], 48000),
    ):
        result = run("decode", tmp_path / "out.bin", tmp_path / "out.wav", *options)
        assert result.exit_code == 0, result.output
        file = soundfile.info(tmp_path / "out.wav")
        wanted = ceil(num_samples * rate / 44100)
        if rate not in (16000, 44100):  # by way of 16 kHz
            wanted = ceil(ceil(num_samples * 16000 / 44100) * rate / 16000)
        assert (file.samplerate, file.channels, file.frames) == (rate, 1, wanted)


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", np.zeros(0, np.float32), 16000)
    result = run("encode", tmp_path / "in.wav", tmp_path / "out.bin")
    assert result.exit_code == 0, result.output
    assert run("info", tmp_path / "out.bin").exit_code == 0
    assert run("decode", tmp_path / "out.bin", tmp_path / "out.wav").exit_code == 0
    assert soundfile.info(tmp_path / "out.wav").frames == 0


@pytest.mark.parametrize("channel", ["mix", "1", "2"])
def test_channels(tmp_path: Path, channel: str) -> None:
    x = voice(NUM_SAMPLES)
    soundfile.write(tmp_path / "in.wav", np.stack([x, -x], 1), 16000)
    result = run("encode", tmp_path / "in.wav", tmp_path / "out.bin", "--channel", channel)
    assert result.exit_code == 0, result.output
    assert ("sign changed" if channel == "mix" else "took channel") in result.stderr
    assert run("decode", tmp_path / "out.bin", tmp_path / "out.wav").exit_code == 0
    decoded, _ = soundfile.read(tmp_path / "out.wav")
    correlation = np.corrcoef(x, decoded)[0, 1]
    assert abs(correlation) > 0.5
    assert channel == "mix" or (correlation < 0) == (channel == "2")
    assert_user_error(
        run("encode", tmp_path / "in.wav", tmp_path / "out.bin", "--channel", "3"),
        "has 2 channels, no channel 3",
    )


# --- where the output goes, and what it is --------------------------------------------------------


def test_without_an_output(wav: Path, tmp_path: Path) -> None:
    """The output lies beside the input, and replaces nothing unless told to."""
    source = tmp_path / "a.b.wav"
    source.write_bytes(wav.read_bytes())
    assert run("encode", source).exit_code == 0
    coded = tmp_path / "a.b.bin"
    assert_user_error(run("decode", coded), str(source), "--force")
    assert source.read_bytes() == wav.read_bytes()
    assert_user_error(run("encode", source), str(coded), "--force")
    assert run("decode", coded, "--force").exit_code == 0
    assert run("encode", source, "--force").exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.bin", "a.b.wav"]
    assert_user_error(run("encode", tmp_path), "is a directory")


def test_a_named_output_is_replaced(wav: Path, stream: Path, tmp_path: Path) -> None:
    (tmp_path / "out.bin").write_bytes(OLD)
    assert run("encode", wav, tmp_path / "out.bin").exit_code == 0
    assert (tmp_path / "out.bin").read_bytes() == stream.read_bytes()


def test_a_directory_as_output(wav: Path, stream: Path, tmp_path: Path) -> None:
    assert run("encode", wav, f"{tmp_path}/new/deep/").exit_code == 0
    assert (tmp_path / "new" / "deep" / "in.bin").read_bytes() == stream.read_bytes()
    assert run("decode", stream, tmp_path).exit_code == 0
    assert soundfile.info(tmp_path / "shared.wav").frames == NUM_SAMPLES


@pytest.mark.parametrize(
    "name, container, subtype",
    [
        ("a.flac", "FLAC", "PCM_16"),
        ("a.FLAC", "FLAC", "PCM_16"),
        ("a.ogg", "OGG", "VORBIS"),
        ("a.opus", "OGG", "OPUS"),
        ("a.mp3", "MP3", "MPEG_LAYER_III"),
        ("a.aiff", "AIFF", "PCM_16"),
        ("a.au", "AU", "PCM_16"),
        ("a.rf64", "RF64", "PCM_16"),
        ("a", "WAV", "PCM_16"),
    ],
)
def test_the_suffix_names_the_format(
    stream: Path, tmp_path: Path, name: str, container: str, subtype: str
) -> None:
    assert run("decode", stream, tmp_path / "plain.wav").exit_code == 0
    result = run("decode", stream, tmp_path / name)
    assert result.exit_code == 0, result.output
    file = soundfile.info(tmp_path / name)
    assert (file.format, file.subtype, file.samplerate) == (container, subtype, 16000)
    plain, _ = soundfile.read(tmp_path / "plain.wav", dtype="int16")
    found, _ = soundfile.read(tmp_path / name, dtype="int16")
    if subtype == "PCM_16":
        np.testing.assert_array_equal(found, plain)
    else:
        assert abs(len(found) - len(plain)) < 2000
        assert 0.9 < np.std(found / 1.0) / np.std(plain / 1.0) < 1.1


def test_a_format_that_cannot_be(stream: Path, tmp_path: Path) -> None:
    assert_user_error(run("decode", stream, tmp_path / "a.xyz"), "cannot be written as .xyz")
    assert_user_error(run("decode", stream, tmp_path / "a.bin"), "cannot be written as .bin")
    rate = ["--sample-rate", "44100"]
    assert_user_error(run("decode", stream, tmp_path / "a.opus", *rate), "opus has no 44100 Hz")
    assert list(tmp_path.iterdir()) == []
    result = run("decode", stream, tmp_path / "a.xyz", "--format", "flac")
    assert result.exit_code == 0, result.output
    assert soundfile.info(tmp_path / "a.xyz").format == "FLAC"


def test_a_stream_by_the_name_of_audio_is_said(wav: Path, tmp_path: Path) -> None:
    result = run("encode", wav, tmp_path / "out.wav")
    assert result.exit_code == 0
    assert "is to be a coded stream, not audio" in result.stderr
    assert_user_error(run("encode", tmp_path / "out.wav", tmp_path / "a.bin"), "coded stream")


def test_samples_without_a_header(tmp_path: Path) -> None:
    """--raw in, --format raw out, telephony among them."""
    x = voice(8000, 8000)
    for encoding, subtype in (("alaw", "ALAW"), ("mulaw", "ULAW"), ("f32le", "FLOAT")):
        frames = np.stack([x, x], 1)
        soundfile.write(tmp_path / "a.raw", frames, 8000, format="RAW", subtype=subtype)
        soundfile.write(tmp_path / "a.wav", frames, 8000, subtype=subtype)
        options = ["--raw", encoding, "--sample-rate", 8000, "--channels", 2]
        result = run("encode", tmp_path / "a.raw", tmp_path / "raw.bin", *options)
        assert result.exit_code == 0, result.output
        assert run("encode", tmp_path / "a.wav", tmp_path / "wav.bin").exit_code == 0
        assert (tmp_path / "raw.bin").read_bytes() == (tmp_path / "wav.bin").read_bytes()
    assert (
        run("decode", tmp_path / "raw.bin", tmp_path / "a.wav", "--rate", "source").exit_code == 0
    )
    wanted, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    options = ["--format", "raw", "--sample-rate", 8000]
    assert run("decode", tmp_path / "raw.bin", tmp_path / "out.pcm", *options).exit_code == 0
    np.testing.assert_array_equal(np.fromfile(tmp_path / "out.pcm", "<i2"), wanted)
    assert_user_error(run("encode", tmp_path / "a.raw", "x", "--sample-rate", 8000), "add --raw")
    assert_user_error(run("encode", tmp_path, tmp_path / "x", "--raw", "alaw"), "one file")


def test_dry_run(wav: Path, tmp_path: Path) -> None:
    result = run("encode", wav, tmp_path / "out.bin", "--dry-run")
    assert (result.exit_code, result.output) == (0, f"{wav} -> {tmp_path / 'out.bin'}\n")
    result = run("encode", wav.parent, tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    assert f"{wav} -> {tmp_path / 'out' / 'in.bin'}\n" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_skip_existing(command: str, wav: Path, stream: Path, tmp_path: Path) -> None:
    source = wav if command == "encode" else stream
    target = tmp_path / "out"
    target.write_bytes(b"")  # not an output
    result = run(command, source, target, "--skip-existing")
    assert result.exit_code == 0, result.output
    assert target.stat().st_size > 0
    target.write_bytes(OLD)
    result = run(command, source, target, "--skip-existing")
    assert result.exit_code == 0, result.output
    assert result.output == f"{target}: exists, skipped\n"
    assert target.read_bytes() == OLD


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and newlines, are printed escaped, in one line."""
    short = tmp_path / "short.wav"
    soundfile.write(short, voice(160), 16000)
    for name in (b"a\xff", b"a\nb"):
        path = Path(str(tmp_path)) / name.decode(errors="surrogateescape")
        source = path.with_name(path.name + ".wav")
        shutil.copy(short, source)
        result = run_process("encode", source, path.with_name(path.name + ".bin"))
        assert result.returncode == 0, result.stderr
        assert result.stderr == b""
        assert result.stdout.count(b"\n") == 1
        shown = {b"a\xff": rb"a\udcff.bin", b"a\nb": rb"a\nb.bin"}[name]
        assert shown in result.stdout
        result = run_process("encode", path.with_name(path.name + ".bin"), tmp_path / "x")
        assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)
        assert shown in result.stderr


# --- names that look like something else ----------------------------------------------------------


def test_what_is_called_minus(wav: Path, stream: Path, tmp_path: Path) -> None:
    """- is standard input, whatever lies there by this name; ./- is the file."""
    data = wav.read_bytes()
    for name in ("file", "folder"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "file":
            (folder / "-").write_bytes(b"another file")
        else:
            (folder / "-").mkdir()
            (folder / "a.bin").write_bytes(OLD)
        result = run_process("encode", "-", "a.bin", input=data, cwd=folder)
        assert result.returncode == 0, result.stderr
        assert (folder / "a.bin").read_bytes() == stream.read_bytes()
    (tmp_path / "file" / "-").write_bytes(data)
    result = run_process("encode", "./-", "b.bin", input=b"", cwd=tmp_path / "file")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "file" / "b.bin").read_bytes() == stream.read_bytes()


def test_info_of_standard_input(stream: Path) -> None:
    result = run("info", "-", data=stream.read_bytes())
    assert result.exit_code == 0, result.output
    assert "standard input" in result.stdout and "1.008 s" in result.stdout
    assert_user_error(run("info", "-", data=b"nonsense"), "standard input")


def test_standard_input_is_not_overwritten(wav: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.wav"
    source.write_bytes(wav.read_bytes())
    with source.open("rb") as file:
        result = run_process("encode", "-", source, stdin=file)
    assert result.returncode == 2 and b"is the input" in result.stderr
    assert source.read_bytes() == wav.read_bytes()
    with source.open("rb") as file, source.open("r+b") as same:
        for name in ("-", source):
            result = run_process(
                "encode", name, "-", stdin=file, stdout=same, stderr=subprocess.PIPE,
                capture_output=False,
            )  # fmt: skip
            assert result.returncode == 2 and b"output is the input" in result.stderr
    assert source.read_bytes() == wav.read_bytes()
    result = run_process("encode", "-", os.devnull, stdin=subprocess.DEVNULL)
    assert b"is the input" not in result.stderr  # a device may be both
    assert_user_error(run("encode", "-", f"{tmp_path}/", data=b"1234"), "name the output file")


@pytest.mark.parametrize("name", ["s16le", "f32le", "alaw", "mulaw"])
def test_samples_are_written_without_a_header(stream: Path, tmp_path: Path, name: str) -> None:
    """What is written is read again, and is what the WAV file has, as near as it can be."""
    options = ["--sample-rate", "8000"]
    assert run("decode", stream, tmp_path / "a.wav", *options).exit_code == 0
    assert run("decode", stream, tmp_path / "a.raw", *options, "--format", name).exit_code == 0
    wanted, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    found = Samples(name, 8000, 1).to_float((tmp_path / "a.raw").read_bytes())[:, 0]
    assert len(found) == len(wanted)
    limit = np.abs(wanted) / 16 + 1e-3 if "law" in name else 1 / 32768
    assert (np.abs(found - wanted) <= limit).all()
    result = run("encode", tmp_path / "a.raw", tmp_path / "b.bin", "--raw", name, *options)
    assert result.exit_code == 0, result.output


def test_salvage_is_named_where_it_helps(stream: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.bin"
    cut.write_bytes(stream.read_bytes()[:-100])
    assert_user_error(run("decode", cut, tmp_path / "a.wav"), "cut off", "--salvage")
    cut.write_bytes(b"nonsense")
    result = run("decode", cut, tmp_path / "a.wav")
    assert_user_error(result, "not a file of this codec")
    assert "--salvage" not in result.stderr
