#!/usr/bin/env bash
# The main job: sets up, executes notebooks with papermill, ends with a table.
# See "bash ci/run.sh --help".
set -euo pipefail
called_from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$venv/bin/python" ci/run.py --called-from "$called_from" "$@"
