#!/usr/bin/env bash
# Prepares data on disk for training from memory maps: see "bash ci/prepare.sh --help".
# "--stack ascend" as the first words takes Python 3.9 and TensorFlow 2.6.5.
set -euo pipefail
for word in "$@"; do
  case $word in
    -h | --help) exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/prepare.py" -h ;;
  esac
done
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$venv/bin/python" ci/prepare.py --called-from "$called_from" "$@"
