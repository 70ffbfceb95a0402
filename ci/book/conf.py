"""Settings of the book that ``bash ci/book.sh`` builds, for Sphinx."""

import re
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MATHJAX = Path(
    next(iter(find_spec("sphinx-mathjax-offline").submodule_search_locations))
)

project = "Recommenders in executable notebooks"
version = re.search(r'__version__ = "(.+)"', (ROOT / "lib/__init__.py").read_text())[1]
extensions = [
    "myst_nb",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "autoapi.extension",
]
suppress_warnings = ["autoapi.python_import_resolution"]  # of tf, which lib passes on

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # the default loads widgets from elsewhere
nb_merge_streams = True
nb_render_markdown_format = "myst"  # the default knows no tables
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

napoleon_use_rtype = False  # a return is described in a sentence
autoapi_dirs = [str(ROOT / "lib")]
autoapi_options = ["members", "show-inheritance", "show-module-summary"]
autoapi_add_toctree_entry = False
autoapi_python_class_content = "class"

html_theme = "furo"
html_title = project
html_favicon = "static/favicon.svg"
html_static_path = ["static", str(MATHJAX / "static/mathjax/tex-svg-full.js")]
html_css_files = ["book.css"]
html_show_sphinx = html_show_copyright = False
mathjax_path = "tex-svg-full.js"
mathjax3_config = {"options": {"enableMenu": False}}


def finish_page(app, page, template, context, doctree):
    """Names the language of a page, and removes our module from tf.Tensor's name."""
    context["language"] = "zh-CN" if page.endswith(".zh-CN") else "en"
    name = "lib.hardware.tensorflow.tf."
    context["body"] = context.get("body", "").replace(name, "tf.")


def setup(app):
    app.connect("html-page-context", finish_page)
