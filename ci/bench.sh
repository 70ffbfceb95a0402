#!/usr/bin/env bash
# Speed against the peers, alternating in one run: bash ci/bench.sh stamp | mf
# The peers live in an environment of their own, .venv-bench.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ci/setup.sh
peers=$PWD/.venv-bench
stamp="$want $PWD $(cksum <ci/bench/requirements.txt)"
if [ "$(cat "$peers/made-from" 2>/dev/null || true)" != "$stamp" ]; then
  echo "Setting up .venv-bench with the peers: a few minutes the first time."
  rm -rf "$peers"
  "$python" -m venv "$peers"
  "$peers/bin/pip" install --quiet --disable-pip-version-check \
    -r ci/bench/requirements.txt
  echo "$stamp" >"$peers/made-from"
fi
exec "$venv/bin/python" ci/bench/run.py "$peers/bin/python" "$@"
