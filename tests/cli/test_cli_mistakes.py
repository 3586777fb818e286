"""Mistakes of the user, and broken files: one line, exit code 2, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_helpers import OLD, assert_user_error, run, run_process, shared_stream, shared_wav, voice


@pytest.fixture(scope="module")
def wav() -> Path:
    return shared_wav()


@pytest.fixture(scope="module")
def stream() -> Path:
    return shared_stream()


@pytest.mark.parametrize("bitrate", ["7.99", "32.1", "0", "-8", "nan", "inf", "many"])
def test_bitrate_out_of_range(wav: Path, tmp_path: Path, bitrate: str) -> None:
    result = run("encode", wav, tmp_path / "out.bin", f"--bitrate={bitrate}")
    assert_user_error(result)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bitrate", ["8", "32"])
def test_bitrate_at_the_ends(wav: Path, tmp_path: Path, bitrate: str) -> None:
    assert run("encode", wav, tmp_path / "out.bin", "--bitrate", bitrate).exit_code == 0


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_missing_input(command: str, tmp_path: Path) -> None:
    missing, target = tmp_path / "missing", tmp_path / "new" / "out"
    assert_user_error(run(command, missing, target), str(missing), "no such file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["encode", "decode", "info"])
@pytest.mark.parametrize("content", [b"", b"this is neither audio nor a stream\n" * 40])
def test_wrong_kind_of_file(command: str, content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes(content)
    arguments = [source] if command == "info" else [source, tmp_path / "out"]
    assert_user_error(run(command, *arguments), str(source))
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("vbr", [False, True])
def test_truncated_stream(wav: Path, tmp_path: Path, vbr: bool) -> None:
    whole, cut = tmp_path / "whole.bin", tmp_path / "cut.bin"
    assert run("encode", wav, whole, *(["--vbr"] if vbr else [])).exit_code == 0
    data = whole.read_bytes()
    for length in (1, 4, 20, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:length])
        assert_user_error(run("decode", cut, tmp_path / "out.wav"), str(cut))
        assert_user_error(run("info", cut), str(cut))
    assert not (tmp_path / "out.wav").exists()


def test_corrupt_stream(stream: Path, tmp_path: Path) -> None:
    data = stream.read_bytes()
    bad, out = tmp_path / "bad.bin", tmp_path / "out.wav"
    out.write_bytes(OLD)
    for position in (0, 4, 6, 10, 15, 30, len(data) // 2, len(data) - 1):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        bad.write_bytes(flipped)
        assert_user_error(run("decode", bad, out), str(bad))
    bad.write_bytes(data + b"\0")
    assert_user_error(run("decode", bad, out), str(bad))
    assert {p.name for p in tmp_path.iterdir()} == {"bad.bin", "out.wav"}
    assert out.read_bytes() == OLD


def test_error_names_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command, name in (("encode", "in.wav"), ("decode", "in.bin")):
        Path(name).write_bytes(b"neither")
        result = run(command, name, "out")
        assert_user_error(result, f"codec: error: {name}: ")
        assert result.stderr.count(name) == 1


def test_not_a_number_in_the_audio(tmp_path: Path) -> None:
    wave = voice(4000)
    wave[100] = np.nan
    soundfile.write(tmp_path / "in.wav", wave, 16000, subtype="FLOAT")
    assert_user_error(run("encode", tmp_path / "in.wav", tmp_path / "out.bin"), "NaN")
    assert not (tmp_path / "out.bin").exists()


def test_output_is_the_input(wav: Path) -> None:
    before = wav.read_bytes()
    assert_user_error(run("encode", wav, wav), "is the input")
    assert_user_error(run("encode", wav, wav.parent / "." / wav.name), "is the input")
    assert_user_error(run("encode", wav.parent, wav.parent), "is the input")
    assert wav.read_bytes() == before


def test_output_of_the_wrong_kind(wav: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"keep")
    assert_user_error(run("encode", wav.parent, file), "is a file")
    assert_user_error(run("encode", wav, file / "out.bin"), "not a directory")
    (tmp_path / "in.bin").mkdir()
    assert_user_error(run("encode", wav, tmp_path), "is a directory")
    assert file.read_bytes() == b"keep"


def test_wrong_weights(wav: Path, stream: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    output = tmp_path / "out"
    assert_user_error(run("encode", wav, output, "--weights", weights), str(weights))
    weights.write_bytes(b"these are no weights at all")
    assert_user_error(run("encode", wav, output, "--weights", weights), str(weights))
    assert_user_error(run("decode", stream, output, "--weights", weights), str(weights))
    assert not output.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode"],
        ["encode", "--nonsense"],
        ["nonsense"],
        ["decode", "a", "b", "--rate", "fast"],
        ["decode", "a", "b", "--sample-rate", "999"],
        ["decode", "a", "b", "--format", "doc"],
        ["encode", "a", "b", "--jobs", "0"],
        ["encode", "a", "b", "--channel", "0"],
        ["encode", "a", "b", "--channel", "left"],
        ["encode", "a", "b", "--raw", "s16be"],
        ["encode", "a", "b", "--channels", "0"],
    ],
)
def test_wrong_options(arguments: list[str]) -> None:
    assert_user_error(run(*arguments))


def test_a_message_is_one_line_in_a_process_too(tmp_path: Path) -> None:
    (tmp_path / "bad.bin").write_bytes(b"nonsense")
    result = run_process("decode", tmp_path / "bad.bin", tmp_path / "out.wav")
    assert result.returncode == 2
    assert result.stderr.count(b"\n") == 1
    assert result.stderr.startswith(b"codec: error: ")


def test_an_empty_name_is_no_folder(wav: Path, tmp_path: Path) -> None:
    """Such as that of a shell's variable that is not set."""
    assert_user_error(run("encode", "", tmp_path / "a.bin"), "an empty name")
    assert_user_error(run("encode", wav, ""), "an empty name")
    assert_user_error(run("decode", "", ""), "an empty name")
    assert_user_error(run("info", ""), "an empty name")
    assert not list(tmp_path.iterdir())
