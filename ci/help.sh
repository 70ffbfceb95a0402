#!/usr/bin/env bash
# Prints the help of the command that sources this, if its words ask for it, and ends it.
# Any Python 3.9 or newer does: nothing is installed.
for word in "$@"; do
  if [ "$word" = --help ] || [ "$word" = -h ]; then
    exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/help.py" "$0"
  fi
done
