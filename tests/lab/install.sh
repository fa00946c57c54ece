#!/usr/bin/env bash
# Installs into a virtual environment, compiled where that is possible: install.sh PREFIX
set -euo pipefail
cd "$(dirname "$0")/../.."
prefix=${1:?which directory? make install PREFIX=/opt/sbc}
pip=("$prefix/bin/python" -m pip --disable-pip-version-check --no-input)

python3 -m venv "$prefix"
"${pip[@]}" install --quiet setuptools wheel mypy types-PyYAML </dev/null
headers=$("$prefix/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
compile=0
if [ -e "$headers/Python.h" ] && command -v cc >/dev/null; then
  compile=1
  echo "compiling, which takes a minute or two"
else
  echo "not compiled, which costs about a quarter more processor time a call: needs a C compiler and $headers/Python.h (Debian: build-essential python3-dev)" >&2
fi
# The dependencies first: mypyc looks at their types.
"${pip[@]}" install --quiet . </dev/null
SBC_COMPILE=$compile "${pip[@]}" install --quiet --no-deps --force-reinstall --no-build-isolation . </dev/null
"${pip[@]}" uninstall --quiet --yes mypy types-PyYAML >/dev/null 2>&1 || true
"$prefix/bin/sbc" version
