#!/usr/bin/env bash
# Speed against the peers, alternating in one run: bash ci/bench.sh stamp | mf,
# or the accuracy of peers: bash ci/bench.sh peers (ratings, on every split), and
# bash ci/bench.sh sessions --data data/diginetica (GRU4Rec, hours),
# or preparing data on disk, up to 100 million rows, and training on it: bash ci/bench.sh data
# The peers live in an environment of their own, .venv-bench, made when they take part.
# "--stack ascend" as the first words measures what needs no peer on TensorFlow 2.6.5.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if [ "${1:-}" = data ]; then
  shift
  exec "$venv/bin/python" ci/bench/measure_data.py "$@"
fi
peers=none
if [ -z "$stack" ]; then
  peers=$PWD/.venv-bench
  pins=ci/bench/requirements.txt
  if ! is_made_from "$peers" "$pins" &&
    "$venv/bin/python" ci/bench/measure.py "$peers" --with-peers "$@" 2>/dev/null |
    grep -qx peers; then
    make_environment "$peers" "$pins"
  fi
  peers=$peers/bin/python
fi
exec "$venv/bin/python" ci/bench/measure.py "$peers" "$@"
