"""Whole commands in a shell, as users give them: pipes, signals, names, directories."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import soundfile

from experiments.field.inputs import RATE, signal, wav

ROOT = Path(__file__).resolve().parents[2]


class Command(NamedTuple):
    """A script for bash in which `codec` is the program; it prints what is wrong, or nothing."""

    item: int
    name: str
    script: str


# a.wav, a.bin (coded), stereo.wav and cut.bin are there; `same A B`, `says WORD COMMAND` and
# `code N COMMAND` complain where that is not so.
COMMANDS = [
    Command(1, "standard input, output exists", """
        for i in 1 2; do codec encode - o.bin < a.wav >&- || echo "failed at $i"; done
        same o.bin a.bin
        for i in 1 2; do codec decode - o.wav < a.bin >&- || echo "failed at $i"; done
        cp a.wav ./-; codec encode - p.bin < /dev/null >&- 2>&-
        codec info p.bin | grep -q ' 0 samples' || echo "a file named - was read"
        codec info - < a.bin | grep -q duration || echo "no info"
        code 2 codec encode - a.wav < a.wav
    """),
    Command(7, "the suffix names the format", """
        for s in flac mp3 opus ogg aiff au caf rf64; do codec decode a.bin x.$s >&- || echo $s; done
        head -c 4 x.flac | grep -q fLaC || echo "no FLAC"
        says "cannot be written as .m4a" codec decode a.bin x.m4a
        codec encode a.wav new/dir/ >&- && [ -f new/dir/a.bin ] || echo "no folder"
        says "usual suffix" codec encode a.wav y.wav
    """),
    Command(8, "a recording that is stopped", """
        for s in INT:130 TERM:143 HUP:129; do
            python=$PYTHON; rm -f live.bin
            $python - "$s" <<'END'
import os, signal, subprocess, sys, time
name, code = sys.argv[1].split(":")
p = subprocess.Popen([sys.executable, os.environ["CLI"], "encode", "-", "live.bin"],
                     stdin=subprocess.PIPE, stdout=-3, stderr=subprocess.PIPE)
p.stdin.write(open("a.wav", "rb").read()); p.stdin.flush()
time.sleep(6)
p.send_signal(getattr(signal, "SIG" + name))
said = p.stderr.read().decode()
if p.wait() != int(code) or "came in" not in said:
    print(name, p.returncode, said)
END
            same live.bin a.bin
        done
        cat cut.bin | says --salvage codec decode - s.wav
        cat cut.bin | code 0 codec decode - s.wav --salvage
    """),
    Command(9, "a WAV in a pipe has true sizes", """
        codec decode a.bin - > x.wav; codec decode a.bin y.wav >&-; same x.wav y.wav
    """),
    Command(12, "closed standard streams", """
        codec encode a.wav c.bin <&- >&- 2>&- || echo "failed"
        same c.bin a.bin
        says "standard input is closed" codec encode - x.bin <&-
        code 2 codec encode missing x.bin 2>&-
    """),
    Command(15, "a directory with all sorts of things", """
        mkdir -p d/sub; cp a.wav d/b.wav; cp a.wav d/sub/A.WAV; mkfifo d/f.wav; ln -s .. d/sub/up
        echo text > d/t.txt
        codec encode d o > said 2>&1 || echo "failed"
        for w in 'f.wav: left out' '1 .txt' 'link to a dir' '2 of 2 files' 'times real time'; do
            grep -q "$w" said || echo "not said: $w"; done
        mv o/b.bin o/b.BIN; codec decode o p | grep -q '2 of 2 files' || echo ".BIN"
        codec encode d q --dry-run > said 2>&1; [ ! -e q ] || echo "not dry"
    """),
    Command(16, "a large chunk behind the samples", """
        set -o pipefail
        (cat a.wav; head -c 300000 /dev/zero) | codec encode - - > x.bin 2>&- || echo "broken"
    """),
    Command(19, "samples without a header", """
        codec decode a.bin u.raw --format mulaw --sample-rate 8000 >&- || echo failed
        codec encode u.raw u.bin --raw mulaw --sample-rate 8000 >&- 2>&- || echo failed
        codec encode - v.bin --raw mulaw --sample-rate 8000 < u.raw >&- 2>&-; same u.bin v.bin
    """),
    Command(20, "no output is named", """
        cp a.wav n.wav; codec encode n.wav >&-; same n.bin a.bin
        code 2 codec encode n.wav; code 2 codec decode n.bin
        code 0 codec encode n.wav --force; code 0 codec encode n.wav n.bin
    """),
    Command(21, "names that are no text", r"""
        f=$'new\nline\xff.wav'; cp a.wav "$f"
        codec encode "$f" x.bin > said || echo "failed"
        [ $(wc -l < said) = 1 ] || echo "not one line"
    """),
]  # fmt: skip

_PRELUDE = """
codec() { "$PYTHON" "$CLI" "$@"; }
same() { cmp -s "$1" "$2" || echo "$1 and $2 differ"; }
says() { w=$1; shift; "$@" 2>&1 >/dev/null | grep -q -e "$w" || echo "not said: $w ($*)"; }
code() { c=$1; shift; "$@" >/dev/null 2>&1; r=$?; [ $r = $c ] || echo "exit $r, not $c ($*)"; }
"""


def try_command(command: Command, folder: Path) -> str | None:
    """Run a script in a folder; return what it complains of, None where there is no bash."""
    bash = shutil.which("bash")
    if bash is None:
        return None
    (folder / "a.wav").write_bytes(wav())
    soundfile.write(folder / "stereo.wav", signal()[:8000].reshape(-1, 2), RATE)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "CLI": str(ROOT / "cli.py")}
    environment["HOME"] = str(Path.home())
    setup = "codec encode a.wav a.bin > /dev/null; head -c 900 a.bin > cut.bin\n"
    done = subprocess.run(
        [bash, "-c", _PRELUDE + setup + command.script], cwd=folder, env=environment,
        capture_output=True, text=True, errors="replace", timeout=600, check=False,
    )  # fmt: skip
    return "; ".join(done.stdout.split("\n")).strip("; ")
