#!/usr/bin/env bash
# Makes .venv with the pinned packages and the project itself. A second call only checks.
# Sourced by run.sh and test.sh, which then use "$venv".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$PWD/.venv
python=${PYTHON:-python3}

want=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || {
  echo "No $python found: install Python 3.10 to 3.13, or set PYTHON to one." >&2
  exit 1
}
case $want in
  3.10 | 3.11 | 3.12 | 3.13) ;;
  *)
    echo "$python is Python $want: use 3.10 to 3.13, for example PYTHON=python3.12." >&2
    exit 1
    ;;
esac
# What the environment was made from; written last, so a broken set-up is made again.
stamp="$want $PWD $(cat requirements.txt ci/constraints.txt | cksum)"
if [ "$(cat "$venv/made-from" 2>/dev/null || true)" != "$stamp" ]; then
  echo "Setting up .venv (Python $want): a few minutes the first time."
  rm -rf "$venv"
  "$python" -m venv "$venv" || {
    echo "python -m venv failed: on Debian and Ubuntu, install python3-venv." >&2
    exit 1
  }
  "$venv/bin/pip" install --quiet --disable-pip-version-check \
    -r requirements.txt -c ci/constraints.txt
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -e .
  echo "$stamp" >"$venv/made-from"
fi
