"""The course as a web site that needs no network: `make book` (Sphinx, MyST-NB, Sphinx Book Theme, MathJax).

The pages are made from the committed outputs; nothing is executed.
"""

import sys
from importlib.resources import files
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = html_title = "mamlcourse"
language = "en"
extensions = ["myst_nb", "course"]
root_doc = "book/index"
include_patterns = ["book/*.md", "notebooks/*.ipynb", "exercises/*.ipynb", "solutions/*.ipynb"]
exclude_patterns = [".*", "build", "runs"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # scripts from the web, for widgets, which need a kernel: the course has figures beside them
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
myst_heading_slug_func = "course.anchor"

mathjax_path = "tex-svg-full.js"  # one file that holds every letter and extension: no fonts to fetch
mathjax3_config = {"svg": {"fontCache": "local"}}

html_theme = "sphinx_book_theme"
html_theme_options = {"use_download_button": False, "navbar_persistent": [], "footer_content_items": []}
html_static_path = ["course.css", str(files("mathjax") / "static" / "mathjax" / "es5" / mathjax_path)]
html_css_files = ["course.css"]
html_copy_source = False
html_use_index = False
templates_path = ["."]
html_additional_pages = {"index": "to_book.html"}
