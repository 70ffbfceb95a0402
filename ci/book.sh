#!/usr/bin/env bash
# Builds the book: the READMEs, docs/, the notebooks and the reference of lib as a website in
# output/book, with search; open output/book/index.html. Nothing is executed: notebooks show
# their committed outputs. Words are passed on to Sphinx.
# Sphinx has a separate environment, .venv-book. Once it is made, nothing is downloaded.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
check_python
make_environment "$PWD/.venv-book" ci/requirements-book.txt
pages=output/book-pages
rm -rf output/book "$pages"
.venv-book/bin/python ci/book/gather.py "$pages"
.venv-book/bin/python -m sphinx -b html -c ci/book -d "$pages/.doctrees" \
  --quiet --fail-on-warning "$@" "$pages" output/book
echo "$(find output/book -name '*.html' | wc -l) pages: open output/book/index.html"
