#!/usr/bin/env bash
# Data parallel training: one papermill run per device, all started together.
# "--stack ascend" as the first words takes Python 3.9 and TensorFlow 2.6.5.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$venv/bin/python" ci/run_distributed.py --called-from "$called_from" "$@"
