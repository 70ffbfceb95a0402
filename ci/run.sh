#!/usr/bin/env bash
# The main job: sets up, executes notebooks with papermill, ends with a table.
# "--stack ascend" as the first words takes Python 3.9 and TensorFlow 2.6.5.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$venv/bin/python" ci/execute.py --called-from "$called_from" "$@"
