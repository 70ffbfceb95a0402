#!/usr/bin/env bash
# Speed against the peers, alternating in one run: bash ci/bench.sh stamp | mf,
# or the accuracy of the rating peers on every split: bash ci/bench.sh peers
# The peers live in an environment of their own, .venv-bench. "--stack ascend" as the
# first words measures what needs no peer on TensorFlow 2.6.5.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stack=
if [ "${1:-}" = --stack ]; then
  stack=${2:?--stack: say which, for example --stack ascend}
  shift 2
fi
source ci/setup.sh
peers=$PWD/.venv-bench
stamp="$want $PWD $(cksum <ci/bench/requirements.txt)"
if [ -n "$stack" ]; then
  peers=none
elif [ "$(cat "$peers/made-from" 2>/dev/null || true)" != "$stamp" ]; then
  echo "Setting up .venv-bench with the peers: a few minutes the first time."
  rm -rf "$peers"
  "$python" -m venv "$peers"
  install "$peers" -r ci/bench/requirements.txt
  echo "$stamp" >"$peers/made-from"
fi
[ "$peers" = none ] || peers=$peers/bin/python
exec "$venv/bin/python" ci/bench/run.py "$peers" "$@"
