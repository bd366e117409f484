"""The course as a web site that needs no network: `make book` (Sphinx, MyST-NB, Sphinx Book Theme, MathJax).

The pages are made from the committed outputs; nothing is executed and nothing of the package is imported. With
`make book REPOSITORY=https://github.com/someone/mamlcourse` they also lead to that repository and to Colab and Binder.
Where there is Chromium (MAMLCOURSE_CHROMIUM names another than the usual ones), it prints the cheat sheet as a PDF.
"""

import os
import shutil
import sys
from importlib.resources import files
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

repository = os.environ.get("MAMLCOURSE_REPOSITORY", "").rstrip("/").removesuffix(".git")
branch = os.environ.get("MAMLCOURSE_BRANCH", "main")
chromium = os.environ.get("MAMLCOURSE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

project = html_title = "mamlcourse"
language = "en"
extensions = ["myst_nb", "course", "reference"]
root_doc = "book/index"
include_patterns = [
    *("book/*.md", "book/*.rst", "notebooks/*.ipynb", "exercises/*.ipynb", "solutions/*.ipynb"),
    *("exercises/TEACHERS.md", "results/omniglot/README.md"),
]
exclude_patterns = [".*", "build", "runs"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # scripts from the web, for widgets, which need a kernel: the course has figures beside them
nb_render_markdown_format = "myst"  # tables that cells print; "gfm" would need a package more
myst_enable_extensions = ["dollarmath", "amsmath", "substitution"]
myst_substitutions = {
    "repository": f"[the repository]({repository})" if repository else "the repository",
    "printed": '<a href="cheat_sheet.pdf" download>a PDF</a>' if chromium else "your browser prints them",
}
myst_heading_anchors = 4
myst_heading_slug_func = "texts.anchor"

mathjax_path = "tex-svg-full.js"  # one file that holds every letter and extension: no fonts to fetch
mathjax3_config = {
    "svg": {"fontCache": "local"},
    "options": {"menuOptions": {"settings": {"inTabOrder": False}}},  # or every formula would be a tab stop
}

html_theme = "sphinx_book_theme"
html_theme_options = {"navbar_persistent": [], "footer_content_items": ["licence"], "use_fullscreen_button": False}
if any(host in repository for host in ("github.com", "gitlab.com", "bitbucket.org")):  # those that the theme knows
    html_theme_options |= {
        "repository_url": repository,
        "repository_branch": branch,
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "colab_url": "https://colab.research.google.com" if "github.com" in repository else "",
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        },
    }
html_static_path = ["course.css", "course.js", str(files("mathjax") / "static" / "mathjax" / "es5" / mathjax_path)]
html_css_files = ["course.css"]
html_js_files = [("course.js", {"defer": "defer"})]
html_copy_source = True  # for the download buttons
html_use_index = False
templates_path = ["."]
html_additional_pages = {"index": "to_book.html"}
