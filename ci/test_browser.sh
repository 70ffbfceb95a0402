#!/usr/bin/env bash
# Builds the book and opens each of its pages in a headless Chromium, then runs notebook 08
# in a real JupyterLab there: bash ci/test_browser.sh
# Playwright has a separate environment, .venv-browser; it drives the Chromium of the
# system ($CHROMIUM, or one it finds), or downloads one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
browser=$PWD/.venv-browser
make_environment "$browser" ci/browser/requirements.txt

# A Chromium of the system, or the one that Playwright has downloaded.
find_chromium() {
  local name
  for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if command -v "$name" 2>/dev/null; then
      return
    fi
  done
  "$browser/bin/python" -c '
import os, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    path = playwright.chromium.executable_path
sys.exit(not os.path.exists(path) or print(path))'
}

chromium=$(find_chromium) || {
  "$browser/bin/playwright" install chromium ||
    { [ "$(id -u)" = 0 ] && apt-get update -q && apt-get install -qy chromium; } || true
  chromium=$(find_chromium) || {
    echo "No Chromium found and none could be downloaded: install chromium, or set" \
      "CHROMIUM to the path of one." >&2
    exit 1
  }
} >&2
bash ci/book.sh
"$browser/bin/python" ci/browser/read_book.py "$chromium"
exec "$browser/bin/python" ci/browser/click_through.py "$venv/bin/jupyter" "$chromium"
