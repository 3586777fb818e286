#!/usr/bin/env bash
# Run a Python script under an emulated AArch64:
#
#     tests/exactness/aarch64.sh FOLDER [SCRIPT ARGUMENTS ...]
#
# Without a script: worker.py, which prints the hashes that must be those of golden.json.
#
# FOLDER gets Debian's arm64 Python 3.11 (root), aarch64 wheels of what coding needs (site) and the
# compiled kernels (kernels), 0.3 GB. It may be kept: what is there is not fetched again, and kernels
# are compiled again only when their sources have changed. Nothing is installed on this system.
#
# Needs qemu-aarch64-static (Debian: qemu-user-static), apt-get with the sources of a Debian that has
# Python 3.11 (bookworm), dpkg-deb, and Python with pip ($PYTHON, else python3).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
[ $# -gt 0 ] || { sed -n '2,14s/^# \?//p' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift

fetch_python() {
    local apt=$folder/apt
    rm -rf "$apt" "$folder/root"
    mkdir -p "$apt"/{state/lists,cache/archives,debs}/partial "$folder/root"
    cat >"$apt/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$apt/state";
Dir::State::status "/dev/null";
Dir::Cache "$apt/cache";
END
    (
        export APT_CONFIG=$apt/apt.conf
        cd "$apt/debs"
        apt-get -q update
        apt-get -q download python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 \
            libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5
        for package in *.deb; do dpkg-deb -x "$package" "$folder/root"; done
    )
    rm -rf "$apt"
}

# Print what pyproject.toml says of the packages that coding needs.
requirements() {
    "$python" - "$here/../../pyproject.toml" <<'END'
import re, sys, tomllib

wanted = dict.fromkeys(("numpy", "numba", "safetensors", "soundfile", "soxr"))
for line in tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"]:
    name = re.split(r"[<>=!~\[ ;]", line)[0]
    if name in wanted:
        wanted[name] = line.replace(" ", "")
print(*(line or name for name, line in wanted.items()))
END
}

fetch_packages() {
    rm -rf "$folder/site" "$folder/wheels"
    mkdir "$folder/site"
    local platforms=() minor
    for minor in $(seq 17 36); do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
    local wanted
    read -ra wanted < <(requirements)
    "$python" -m pip download -q --disable-pip-version-check -d "$folder/wheels" \
        --only-binary=:all: --python-version 3.11 --implementation cp \
        --platform manylinux2014_aarch64 "${platforms[@]}" "${wanted[@]}"
    for wheel in "$folder"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$folder/site"; done
    rm -rf "$folder/wheels"
}

if [ ! -e "$folder/complete" ]; then
    { fetch_python && fetch_packages && touch "$folder/complete"; } >&2
fi
[ $# -gt 0 ] || set -- "$here/worker.py"
export PYTHONHOME=$folder/root/usr PYTHONPATH=$folder/site PYTHONDONTWRITEBYTECODE=1
export NUMBA_CACHE_DIR=$folder/kernels
unset LD_LIBRARY_PATH LD_PRELOAD
exec qemu-aarch64-static -L "$folder/root" "$folder/root/usr/bin/python3.11" "$@"
