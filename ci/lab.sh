#!/usr/bin/env bash
# Opens JupyterLab on copies of the notebooks, in output/notebooks. What is run and saved
# there changes no file that git knows. A copy that exists stays as it is; remove it to get
# a new one. Words are passed on: bash ci/lab.sh --no-browser --ip 0.0.0.0
# "--stack ascend" as the first words takes Python 3.9 and TensorFlow 2.6.5.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
mkdir -p output/notebooks
for notebook in notebooks/*.ipynb; do
  copy=output/$notebook
  # A copy is one folder deeper, and so are its links, as those to docs/.
  if [ ! -e "$copy" ]; then sed 's#](\.\./#](../../#g' "$notebook" >"$copy"; fi
done
if [ "$(id -u)" = 0 ]; then set -- --allow-root "$@"; fi  # as in most containers
exec "$venv/bin/jupyter" lab --LabApp.default_url=/lab/tree/output/notebooks "$@"
