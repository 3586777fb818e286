#!/usr/bin/env bash
# Regenerate demo/speech: four sentences of our own, spoken by free synthesizers.
#
# Needs flite 2.2 (voices slt, rms, awb), espeak-ng 1.51 and sox 14.4; on Debian or Ubuntu:
#   apt-get install -y flite espeak-ng sox
# The files that the project ships were made with exactly these commands.
set -euo pipefail
cd "$(dirname "$0")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p speech

# Trim the ends to 0.15 s of quiet, bring the peak to -3 dBFS; -R repeats sox's dither exactly.
finish() { # NAME
  sox -R "$work/$1.wav" -r 16000 -c 1 -b 16 -C 8 "speech/$1.flac" \
    silence 1 0.01 0.1% reverse silence 1 0.01 0.1% reverse pad 0.15 0.15 norm -3
}

say_flite() { # NAME VOICE TEXT
  flite -voice "$2" -t "$3" -o "$work/$1.wav"
  finish "$1"
}

say_espeak() { # NAME VOICE TEXT
  espeak-ng -v "$2" -s 165 -w "$work/$1.wav" "$3"
  finish "$1"
}

say_flite  slt    slt      "The quiet river carries small boats slowly toward the evening sea."
say_flite  rms    rms      "Please bring seven fresh peaches and a jar of honey for the guests."
say_flite  awb    awb      "A narrow bridge of old grey stone joins the two halves of the village."
say_espeak espeak en-gb+f3 "She sketched the valley twice, once at sunrise and once in the rain."

sha256sum speech/*.flac
