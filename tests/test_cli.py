"""The command line, end to end through real files."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

import cli
from codec.bitstream import read_header

ROOT = Path(cli.__file__).resolve().parent
NUM_SAMPLES = 16123  # 1 s and a bit: neither whole packets nor whole hops


def run(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], prog_name="codec")


def run_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as a user does."""
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def assert_user_error(result: Result, *words: str) -> None:
    """Assert exit code 2 and one error line that has all `words`; stdout stays empty."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("codec: error: ")
    for word in words:
        assert word in lines[0]


def voice(num_samples: int, rate: int) -> np.ndarray:
    """Return a buzz with two formants that moves like speech, float32 [T]."""
    t = np.arange(num_samples) / rate
    phase = 2 * np.pi * (120 * t + 5 * np.sin(2 * np.pi * 2 * t))
    wave = sum(
        np.cos(k * phase) / (1 + ((k * 120 - 600) / 250) ** 2)
        + 0.3 * np.cos(k * phase) / (1 + ((k * 120 - 1800) / 300) ** 2)
        for k in range(1, 25)
    )
    wave = wave * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    wave += 0.01 * np.random.default_rng(0).standard_normal(num_samples)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mono file at 16 kHz."""
    path = tmp_path_factory.mktemp("wav") / "in.wav"
    soundfile.write(path, voice(NUM_SAMPLES, 16000), 16000)
    return path


@pytest.fixture(scope="module")
def stream(wav: Path) -> Path:
    """That file encoded at 13.2 kbit/s."""
    path = wav.with_name("shared.bin")
    result = run("encode", wav, path)
    assert result.exit_code == 0, result.output
    return path


# --------------------------------------------------------------------------------------------------
# One file


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
    assert not list(tmp_path.rglob("*.tmp"))


def test_decoded_speech_resembles_the_source(wav: Path, stream: Path, tmp_path: Path) -> None:
    assert run("decode", stream, tmp_path / "out.wav").exit_code == 0
    reference, _ = soundfile.read(wav)
    decoded, _ = soundfile.read(tmp_path / "out.wav")
    assert np.corrcoef(reference, decoded)[0, 1] > 0.5


def test_same_bytes_in_another_process(wav: Path, stream: Path, tmp_path: Path) -> None:
    result = run_process("encode", wav, tmp_path / "out.bin")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.bin").read_bytes() == stream.read_bytes()


def test_vbr(wav: Path, tmp_path: Path) -> None:
    result = run("encode", wav, tmp_path / "out.bin", "--vbr", "--bitrate", 16.4)
    assert result.exit_code == 0, result.output
    assert json.loads(run("info", tmp_path / "out.bin", "--json").stdout)["vbr"] is True
    assert run("decode", tmp_path / "out.bin", tmp_path / "out.wav").exit_code == 0
    assert soundfile.info(tmp_path / "out.wav").frames == NUM_SAMPLES


def test_44100_hz_stereo_and_rate_source(tmp_path: Path) -> None:
    num_samples = 30011
    mono = voice(num_samples, 44100)
    soundfile.write(tmp_path / "in.wav", np.stack([mono, 0.5 * mono], 1), 44100)
    result = run("encode", tmp_path / "in.wav", tmp_path / "out.bin")
    assert result.exit_code == 0, result.output
    notes = result.stderr.splitlines()
    assert len(notes) == 2
    assert "mono" in notes[0]
    assert "44100" in notes[1]

    assert run("decode", tmp_path / "out.bin", tmp_path / "codec.wav").exit_code == 0
    file = soundfile.info(tmp_path / "codec.wav")
    assert file.samplerate == 16000
    assert file.frames == -(-num_samples * 16000 // 44100)

    result = run("decode", tmp_path / "out.bin", tmp_path / "source.wav", "--rate", "source")
    assert result.exit_code == 0, result.output
    file = soundfile.info(tmp_path / "source.wav")
    assert (file.samplerate, file.channels, file.frames) == (44100, 1, num_samples)


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", np.zeros(0, np.float32), 16000)
    result = run("encode", tmp_path / "in.wav", tmp_path / "out.bin")
    assert result.exit_code == 0, result.output
    assert run("info", tmp_path / "out.bin").exit_code == 0
    assert run("decode", tmp_path / "out.bin", tmp_path / "out.wav").exit_code == 0
    assert soundfile.info(tmp_path / "out.wav").frames == 0


def test_overwrites_an_output(wav: Path, stream: Path, tmp_path: Path) -> None:
    (tmp_path / "out.bin").write_bytes(b"old")
    assert run("encode", wav, tmp_path / "out.bin").exit_code == 0
    assert (tmp_path / "out.bin").read_bytes() == stream.read_bytes()


# --------------------------------------------------------------------------------------------------
# Mistakes


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
    bad = tmp_path / "bad.bin"
    for position in (0, 4, 6, 10, 15, 30, len(data) // 2, len(data) - 1):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        bad.write_bytes(flipped)
        assert_user_error(run("decode", bad, tmp_path / "out.wav"), str(bad))
    bad.write_bytes(data + b"\0")
    assert_user_error(run("decode", bad, tmp_path / "out.wav"), str(bad))
    assert list(tmp_path.iterdir()) == [bad]


def test_corrupt_stream_keeps_the_old_output(stream: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.bin").write_bytes(stream.read_bytes()[:-3])
    (tmp_path / "out.wav").write_bytes(b"old")
    result = run_process("decode", tmp_path / "bad.bin", tmp_path / "out.wav")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert (tmp_path / "out.wav").read_bytes() == b"old"


def test_error_names_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command, name in (("encode", "in.wav"), ("decode", "in.bin")):
        Path(name).write_bytes(b"neither")
        result = run(command, name, "out")
        assert_user_error(result, f"codec: error: {name}: ")
        assert result.stderr.count(name) == 1


def test_not_a_number_in_the_audio(tmp_path: Path) -> None:
    wave = voice(4000, 16000)
    wave[100] = np.nan
    soundfile.write(tmp_path / "in.wav", wave, 16000, subtype="FLOAT")
    assert_user_error(run("encode", tmp_path / "in.wav", tmp_path / "out.bin"), "NaN")
    assert not (tmp_path / "out.bin").exists()


def test_output_is_the_input(wav: Path) -> None:
    before = wav.read_bytes()
    assert_user_error(run("encode", wav, wav), "is the input")
    assert_user_error(run("encode", wav, wav.parent / "." / wav.name), "is the input")
    assert wav.read_bytes() == before


def test_output_of_the_wrong_kind(wav: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"keep")
    assert_user_error(run("encode", wav, tmp_path), "is a directory", "in.bin")
    assert_user_error(run("encode", wav.parent, file), "is a file")
    assert_user_error(run("encode", wav, file / "out.bin"), "not a directory")
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
        ["encode", "a", "b", "--jobs", "0"],
        ["train", ".", "--out", "x", "--estimator", "guess"],
        ["train", ".", "--out", "x", "--steps", "0"],
        ["train", "does-not-exist", "--out", "x"],
        ["train", "."],
    ],
)
def test_wrong_options(arguments: list[str]) -> None:
    assert_user_error(run(*arguments))


# --------------------------------------------------------------------------------------------------
# Directories


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with two good files, a bad one, and one that is not audio."""
    root = tmp_path / "tree"
    (root / "deep" / "er").mkdir(parents=True)
    soundfile.write(root / "a.wav", voice(5000, 16000), 16000)
    soundfile.write(root / "deep" / "er" / "b.c.flac", voice(7001, 16000), 16000)
    (root / "bad.wav").write_bytes(b"RIFF, or so it says")
    (root / "notes.txt").write_text("not audio")
    return root


@pytest.mark.parametrize("jobs", [1, 2])
def test_directory_with_a_bad_file(tree: Path, tmp_path: Path, jobs: int) -> None:
    coded, decoded = tmp_path / "coded", tmp_path / "decoded"
    result = run_process("encode", tree, coded, "--jobs", jobs)
    assert result.returncode == 1, result.stderr
    assert "encoded 2 of 3 files" in result.stdout
    errors = [line for line in result.stderr.splitlines() if line]
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("codec: error: ")
    assert str(tree / "bad.wav") in errors[0]
    outputs = sorted(str(p.relative_to(coded)) for p in coded.rglob("*") if p.is_file())
    assert outputs == ["a.bin", "deep/er/b.c.bin"]

    result = run_process("decode", coded, decoded, "--jobs", jobs)
    assert result.returncode == 0, result.stderr
    assert "decoded 2 of 2 files" in result.stdout
    assert soundfile.info(decoded / "a.wav").frames == 5000
    assert soundfile.info(decoded / "deep" / "er" / "b.c.wav").frames == 7001

    single = tmp_path / "single.bin"
    assert run("encode", tree / "a.wav", single).exit_code == 0
    assert (coded / "a.bin").read_bytes() == single.read_bytes()


def test_directory_with_a_cut_stream(stream: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "good.bin").write_bytes(stream.read_bytes())
    (source / "cut.bin").write_bytes(stream.read_bytes()[:-9])
    result = run("decode", source, tmp_path / "out")
    assert result.exit_code == 1
    assert str(source / "cut.bin") in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.wav"]


def test_two_files_of_one_output_name(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.flac", "a.wav"):
        soundfile.write(source / name, voice(1000, 16000), 16000)
    result = run("encode", source, tmp_path / "out")
    assert result.exit_code == 1
    assert "a.wav" in result.stderr
    assert "encoded 1 of 2 files" in result.stdout


def test_directory_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert_user_error(run("encode", tmp_path / "in", tmp_path / "out"), "no audio files")
    assert_user_error(run("decode", tmp_path / "in", tmp_path / "out"), "no .bin files")
    assert_user_error(run("encode", tmp_path / "in", tmp_path / "in"), "is the input")
    assert not (tmp_path / "out").exists()


def test_encode_independent_packets(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    source = ROOT / "demo" / "speech" / "slt.flac"
    result = run("encode", source, target, "--independent-packets")
    assert result.exit_code == 0, result.output
    assert read_header(target.read_bytes())[0].independent
    assert "independent" in run("info", target).stdout


# --------------------------------------------------------------------------------------------------
# Start-up, Ctrl-C, training options


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["info"]])
def test_answers_at_once_without_torch(arguments: list[str], stream: Path) -> None:
    arguments = [*arguments, str(stream)] if arguments == ["info"] else arguments
    code = (
        "import sys, cli\n"
        "try: cli.app(sys.argv[1:])\n"
        "except SystemExit as leave: code = leave.code\n"
        "heavy = {'torch', 'numba', 'scipy', 'soundfile', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    seconds = []
    for _ in range(3):
        # CPU time: it is wall time on an idle machine, and does not fail on a busy one.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert result.returncode == 0, result.stderr
    assert min(seconds) < 0.5


def test_every_option_has_help() -> None:
    for command in ("encode", "decode", "info", "eval", "train"):
        help_text = run(command, "--help").stdout
        lines = help_text.split("Options:")[1].splitlines()
        for line in lines:
            if line.startswith("  --"):
                assert len(line.split("  ")) > 2 or lines[lines.index(line) + 1].strip(), line


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c(tmp_path: Path, jobs: int) -> None:
    source = tmp_path / "in"
    source.mkdir()
    long = np.tile(voice(16000, 16000), 20)
    for number in range(40):
        soundfile.write(source / f"{number}.wav", long, 16000)
    command = [sys.executable, str(ROOT / "cli.py"), "encode", str(source), str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--jobs", str(jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/*.bin")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: workers get it as well
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines() == ["codec: interrupted"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_train_on_a_directory_without_audio(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    result = run("train", tmp_path / "in", "--out", tmp_path / "run", "--steps", 1)
    assert_user_error(result, str(tmp_path / "in"))
