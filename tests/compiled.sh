#!/usr/bin/env bash
# Makes a copy of the tree with its hot modules compiled: compiled.sh PYTHON DIRECTORY
# A copy, because a compiled module beside its source would hide what somebody is just writing.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "$1")
tree=$2

headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
if [ ! -e "$headers/Python.h" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  # What cannot be installed is told below, and the source runs instead.
  apt-get update -qq </dev/null || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "python$version-dev" </dev/null >/dev/null || true
fi
rm -rf "$tree"
mkdir -p "$tree"
tree=$(realpath "$tree")
cp -r sbc signaling media nat config tests docs systemd pyproject.toml setup.py README.md ARCHITECTURE.md "$tree/"
find "$tree" -name __pycache__ -exec rm -rf {} +
cd "$tree"
if [ ! -e "$headers/Python.h" ] || ! command -v cc >/dev/null; then
  echo "not compiled: needs a C compiler and $headers/Python.h (Debian: build-essential python3-dev); the source runs instead" >&2
  exit 0
fi
echo "compiling into $tree, which takes a minute or two"
if ! SBC_COMPILE=1 "$python" setup.py build_ext --inplace >compile.log 2>&1; then
  tail -n 40 compile.log >&2
  exit 1
fi
rm -rf build
