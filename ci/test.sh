#!/usr/bin/env bash
# The test command: sets up, then lint, format, types, unit tests, and every notebook run
# again with its outputs compared. If there is a Python 3.9, the unit tests and notebooks
# 03, 04, 06 and 13 run on the Ascend stack at the same time, under python -O: without asserts,
# except those of the tests, which pytest rewrites. What does not depend on the stack runs once.
# Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
logs=$(mktemp -d)
trap 'rm -rf "$logs"; kill $(jobs -p) 2>/dev/null || true' EXIT

on_the_ascend_stack() (
  source ci/setup.sh --stack ascend
  touch "$logs/ascend-is-set-up"
  local once="test_documentation or test_quoted or test_shown or test_recorded"
  once+=" or test_repository or test_book or test_solutions or test_sweeps"
  once+=" or (whatever_ran_before and 03_stamp)"
  local notebooks="03_stamp or 04_mf or audit_the_published"
  PYTHONOPTIMIZE=1 "$venv/bin/python" -m pytest tests -p no:cacheprovider -q \
    --durations 10 \
    -k "(not test_notebooks or $notebooks) and not ($once)" "$@"
)

source ci/setup.sh ""  # the arguments belong to pytest
# Spark is not a requirement. It is tested where Java is installed; otherwise the test says NOT TESTED.
spark=$(grep -o '^pyspark==[0-9.]*' ci/requirements-spark.txt)
if ! java -version >/dev/null 2>&1; then
  echo "No java found: $spark is not installed, and Spark is NOT TESTED."
elif ! compgen -G "$venv/lib/python3*/site-packages/${spark/==/-}.dist-info" >/dev/null; then
  echo "Installing $spark, 450 MB, for the test of Spark: a minute, once."
  install "$venv" -r ci/requirements-spark.txt ||
    echo "$spark could not be installed: Spark is NOT TESTED."
fi
ascend=
if find_python39 >/dev/null; then
  echo "=== The Ascend stack runs at the same time; its output is at the end ==="
  on_the_ascend_stack "$@" >"$logs/ascend" 2>&1 &
  ascend=$!
fi
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
# One of the tests compares both stacks.
while [ -n "$ascend" ] && kill -0 "$ascend" 2>/dev/null &&
  [ ! -e "$logs/ascend-is-set-up" ]; do
  sleep 1
done
echo "=== The current stack ==="
status=0
"$venv/bin/python" -m pytest tests notebooks --nbval --nbval-current-env \
  --nbval-cell-timeout 600 --durations 30 "$@" | tee "$logs/current" || status=$?
if [ -n "$ascend" ]; then
  wait "$ascend" || status=$?
  echo "=== The Ascend stack: Python 3.9, TensorFlow 2.6.5 ==="
  cat "$logs/ascend"
else
  echo "!!! NOT TESTED: the Ascend stack (TensorFlow 2.6.5), and python -O. No Python 3.9" \
    "found. !!!"
fi
"$venv/bin/python" ci/count_code.py
echo "=== The current stack, in one line ==="
tail -n 1 "$logs/current"
exit "$status"
