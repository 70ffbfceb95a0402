#!/usr/bin/env bash
# The test command: sets up, then lint, format, unit tests, and every notebook run again
# with its outputs compared. Where there is a Python 3.9, the unit tests and notebooks 03
# and 04 run on the Ascend stack before. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
current=$venv
"$current/bin/ruff" check .
"$current/bin/ruff" format --check .
untested=
if find_python39 >/dev/null; then
  stack=ascend
  source ci/setup.sh
  echo "=== The Ascend stack: Python 3.9, TensorFlow 2.6.5 ==="
  "$venv/bin/python" -m pytest tests -p no:cacheprovider -q --durations 5 \
    -k "not test_notebooks or 03_stamp or 04_mf" "$@"
else
  untested="!!! NOT TESTED: the Ascend stack (TensorFlow 2.6.5). No Python 3.9 found. !!!"
  echo "$untested"
fi
echo "=== The current stack ==="
status=0
"$current/bin/python" -m pytest tests notebooks --nbval --nbval-current-env \
  --nbval-cell-timeout 600 --durations 10 "$@" || status=$?
[ -z "$untested" ] || echo "$untested"
exit "$status"
