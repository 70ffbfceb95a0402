#!/usr/bin/env bash
# Makes the environment of a stack with the pinned packages and the project itself: .venv,
# or .venv-ascend if the first words are "--stack ascend". A second call only checks.
# Sourced by the commands of ci/: without arguments it reads, and shifts, theirs. They then
# use "$venv" and "$called_from", and are in the repository's root.
set -euo pipefail
called_from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [ "${1:-}" = --stack ]; then
  stack=${2:?--stack: say which, for example --stack ascend}
  shift 2
fi

# The first Python 3.9: $PYTHON39, python3.9, python3, pyenv's, one that uv has or downloads.
find_python39() {
  local candidate
  if [ -n "${PYTHON39:-}" ] && ! "$PYTHON39" -c \
    'import sys; sys.exit(sys.version_info[:2] != (3, 9))' 2>/dev/null; then
    echo "PYTHON39=$PYTHON39 is no Python 3.9." >&2
    return 1
  fi
  for candidate in "${PYTHON39:-}" python3.9 python3 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.9*/bin/python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 9))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  uv python find 3.9 2>/dev/null ||
    { uv python install --quiet 3.9 && uv python find 3.9; } 2>/dev/null
}

# Reports if a Python lacks the shared library that CANN's operator compiler loads.
check_libpython() {
  "$1" - <<'END' && return
import glob, os, sys, sysconfig
folders = [sysconfig.get_config_var(name) or "" for name in ("LIBDIR", "LIBPL")]
folders += [os.path.join(folders[0], sysconfig.get_config_var("MULTIARCH") or "")]
folders += [os.path.join(sys.base_prefix, "lib")]
folders += os.environ.get("LD_LIBRARY_PATH", "").split(":")
sys.exit(not any(glob.glob(os.path.join(f, "libpython3.9.so*")) for f in folders if f))
END
  echo "$1 has no libpython3.9.so, which CANN's operator compiler loads: for an NPU," \
    "set PYTHON39 to a Python 3.9 built with --enable-shared; a CPU does not need it."
}

case $stack in
  "")
    venv=$PWD/.venv requirements=requirements.txt constraints=ci/constraints.txt
    ;;
  ascend)
    venv=$PWD/.venv-ascend requirements=requirements-ascend.txt
    constraints=ci/constraints-ascend.txt
    python=$(find_python39) || {
      echo "No Python 3.9 found, which TensorFlow 2.6.5 needs: install python3.9, or" \
        "pyenv's or uv's, or set PYTHON39 to one." >&2
      exit 1
    }
    ;;
  *)
    echo "--stack $stack: allowed is ascend; without it the current stack is used." >&2
    exit 1
    ;;
esac
check_python
# What the environment was made from; written last, so an unfinished set-up is repeated.
base=$("$python" -c 'import sys; print(sys.base_prefix)')
stamp="$want $base $PWD $(cat "$requirements" "$constraints" | cksum)"
if [ "$(cat "$venv/made-from" 2>/dev/null || true)" != "$stamp" ]; then
  echo "Setting up ${venv##*/} (Python $want): a few minutes the first time."
  if [ "$stack" = ascend ]; then check_libpython "$python"; fi
  rm -rf "$venv"
  mkdir -p "$venv"
  wanted=$venv/requirements.txt
  cp "$requirements" "$wanted"
  site=
  if [ "$stack" = ascend ] && [ "$(uname -m)" = aarch64 ]; then
    # There is no wheel of TensorFlow 2.6.5 for aarch64: take the container's own.
    "$python" -c 'import tensorflow as tf; assert tf.__version__ == "2.6.5"' || {
      echo "$python has no TensorFlow 2.6.5, and for aarch64 none can be downloaded:" \
        "use a container that has it, or build it; PYTHON39=/path/to/python chooses the" \
        "Python that has it." >&2
      exit 1
    }
    grep -v '^tensorflow' "$requirements" >"$wanted"
    site=--system-site-packages
  fi
  # shellcheck disable=SC2086  # no argument if it is empty
  create_environment $site "$venv"
  install "$venv" -r "$wanted" -c "$constraints"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -e .
  echo "$stamp" >"$venv/made-from"
fi
mkdir -p "$venv/etc/ipython"
cp ci/ipython_kernel_config.py "$venv/etc/ipython/"
