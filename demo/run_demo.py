"""Show the codec at work: code the shipped sentences, look inside a stream, score, listen.

Everything goes through the command line that users have. Start it with `make demo`, or with
`python demo/run_demo.py` where the package is installed.
"""

import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SPEECH = "demo/speech"
OUT = "demo/out"
RATES = ("8", "13.2", "24.4")


def run(*arguments: str) -> None:
    """Show a `codec` command, run it, and end the demo where it fails."""
    print(f"\n$ codec {shlex.join(arguments)}", flush=True)
    script = Path(sysconfig.get_path("scripts")) / "codec"
    result = subprocess.run([str(script), *arguments], cwd=HERE.parent)
    if result.returncode:
        sys.exit(result.returncode)


def main() -> None:
    """Run the demo."""
    started = time.monotonic()
    shutil.rmtree(HERE / "out", ignore_errors=True)

    print("1. Encode four sentences at three rates, and decode them again.")
    for rate in RATES:
        run("encode", SPEECH, f"{OUT}/coded/{rate}", "--bitrate", rate)
        run("decode", f"{OUT}/coded/{rate}", f"{OUT}/decoded/{rate}")

    print("\n2. Look inside one of the streams.")
    run("info", f"{OUT}/coded/13.2/slt.bin")

    print("\n3. Score the codec on these sentences (PESQ goes to 4.64; pSNR is in dB).")
    run("eval", SPEECH, "--rates", ",".join(RATES), "--out", f"{OUT}/eval")

    print(f"\nDone in {time.monotonic() - started:.0f} s. Now listen and compare:")
    for source in sorted((HERE / "speech").glob("*.flac")):
        decoded = ", ".join(f"{OUT}/decoded/{rate}/{source.stem}.wav" for rate in RATES)
        print(f"  {SPEECH}/{source.name}  with  {decoded}")
    print(f"To switch between them, or rate them blind: open {OUT}/eval/listen.html in a browser")
    print(f"The plot of quality over rate is {OUT}/eval/rate_quality.png.")


if __name__ == "__main__":
    main()
