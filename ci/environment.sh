# Makes environments of pinned packages in the repository's root; sourced by setup.sh and by
# commands that need no TensorFlow.
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stack=
python=${PYTHON:-python3}

# Sets "want" to the version of "python", which must be one that the stack has.
check_python() {
  want=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || {
    echo "No $python found: install Python 3.11 to 3.13, or set PYTHON to one." >&2
    exit 1
  }
  case $stack$want in
    3.11 | 3.12 | 3.13 | ascend3.9) ;;
    *)
      echo "$python is Python $want: use 3.11 to 3.13, for example PYTHON=python3.12." >&2
      exit 1
      ;;
  esac
}

# Installs into an environment with uv, in a quarter of pip's time; if uv fails, with pip.
install() {
  local venv=$1
  shift
  if "$venv/bin/pip" install --quiet --disable-pip-version-check uv==0.13.9 &&
    "$venv/bin/uv" pip install --quiet --compile-bytecode \
      --python "$venv/bin/python" "$@"; then
    return
  fi
  echo "uv could not install the packages; pip does it now."
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"
}

# Creates an empty environment; further words go to python -m venv.
create_environment() {
  "$python" -m venv "$@" || {
    echo "python -m venv failed: on Debian and Ubuntu, install python3-venv." >&2
    exit 1
  }
}

# Whether the environment $1 was made from the pins of the file $2.
is_made_from() {
  [ "$(cat "$1/made-from" 2>/dev/null || true)" = "$want $PWD $(cksum <"$2")" ]
}

# Makes the environment $1 with the pins of the file $2, if it was not made from them.
# made-from is written last, so an unfinished set-up is repeated.
make_environment() {
  if is_made_from "$@"; then return; fi
  echo "Setting up ${1##*/}: a few minutes the first time."
  rm -rf "$1"
  create_environment "$1"
  install "$1" -r "$2"
  echo "$want $PWD $(cksum <"$2")" >"$1/made-from"
}
