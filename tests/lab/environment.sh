#!/usr/bin/env bash
# Makes a virtual environment with the project and its tools in it: environment.sh DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$1

# The newest Python on the path that is new enough; `python3` wins when it is.
python=
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "Python 3.11 or newer is needed, and none is on the path (python3 is: $(python3 -V 2>&1 || true))" >&2
  exit 1
fi

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
  rm -rf "$venv"
  if ! "$python" -m venv "$venv" 2>/dev/null; then
    # Debian keeps ensurepip in a package of its own.
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      apt-get update -qq </dev/null
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "python$version-venv" </dev/null
      rm -rf "$venv"
      "$python" -m venv "$venv"
    else
      rm -rf "$venv"
      echo "$python cannot make virtual environments; install: python$version-venv" >&2
      exit 1
    fi
  fi
fi
echo "installing into $venv ($("$venv/bin/python" -V))"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -e '.[dev]' </dev/null
