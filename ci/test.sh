#!/usr/bin/env bash
# The test command: sets up, then lint, format, unit tests, and every notebook run again
# with its outputs compared. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
exec "$venv/bin/python" -m pytest tests notebooks --nbval --nbval-current-env \
  --nbval-cell-timeout 600 --durations 10 "$@"
