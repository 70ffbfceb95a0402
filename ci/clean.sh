#!/usr/bin/env bash
# Says what takes how much disk in this folder, and removes what it is told to:
#   bash ci/clean.sh                   lists; removes nothing
#   bash ci/clean.sh .venv caches      removes these entries of the list
#   bash ci/clean.sh all               removes every entry but output
# Data of your own in data/ are never removed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The paths of an entry that exist, each with a 0 byte behind.
list_paths() {
  case $1 in
    downloads) find data -maxdepth 1 \( -name ml-1m -o -name ml-1m.zip \) -print0 ;;
    caches)
      find . -path './.venv*' -prune -o \
        \( -name __pycache__ -o -name .ipynb_checkpoints -o -name .pytest_cache \
        -o -name .ruff_cache -o -name .mypy_cache -o -name .hypothesis -o -path ./build \
        -o -name '*.egg-info' \) -prune -print0
      ;;
    *) find "./$1" -maxdepth 0 -print0 ;;
  esac 2>/dev/null || true
}

measure() {
  list_paths "$1" | du -sch --files0-from=- 2>/dev/null | tail -n 1 | cut -f 1
}

entries=()
for entry in .venv*/ output downloads caches; do
  entry=${entry%/}
  if [ -n "$(list_paths "$entry" | tr -d '\0')" ]; then entries+=("$entry"); fi
done
about() {
  case $1 in
    .venv) echo "environment; the next command makes it again" ;;
    .venv-*) echo "environment; the command that needs it makes it again" ;;
    output) echo "your runs, records, exports and copies of notebooks" ;;
    downloads) echo "data/ml-1m and its archive; fetched again when needed" ;;
    caches) echo "of Python, Jupyter and the tests" ;;
  esac
}

if [ $# = 0 ]; then
  for entry in ${entries[@]+"${entries[@]}"}; do
    printf '%-14s %7s  %s\n' "$entry" "$(measure "$entry")" "$(about "$entry")"
  done
  for cache in "${UV_CACHE_DIR:-$HOME/.cache/uv}" "${PIP_CACHE_DIR:-$HOME/.cache/pip}"; do
    if [ -d "$cache" ]; then
      printf '%-14s %7s  %s\n' "$(basename "$cache") cache" "$(du -sh "$cache" | cut -f 1)" \
        "outside, shared with other projects: $(basename "$cache") cache clean | purge"
    fi
  done
  echo "bash ci/clean.sh NAME removes an entry, bash ci/clean.sh all every one but output."
  exit
fi
for name in "$@"; do
  case " all ${entries[*]-} " in
    *" $name "*) ;;
    *)
      echo "$name: nothing of that name; there is all, ${entries[*]-}" >&2
      exit 1
      ;;
  esac
done
if [ "$*" = all ]; then
  set --
  for entry in ${entries[@]+"${entries[@]}"}; do
    if [ "$entry" != output ]; then set -- "$@" "$entry"; fi
  done
fi
for entry in "$@"; do
  size=$(measure "$entry")
  list_paths "$entry" | xargs -0 rm -rf --
  echo "removed $entry: $size"
done
