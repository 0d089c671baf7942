"""Builds the documentation:

pip install -e ".[docs]"
sphinx-build -W --keep-going -b html docs docs/_build/html
sphinx-build -W --keep-going -b doctest docs docs/_build/doctest
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
# For the notebook's kernel, which is a process of its own: a tiny recipe, and this checkout's package.
os.environ["KGPT_TINY"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from kgpt_jax import __version__  # noqa: E402

project = "kgpt_jax"
author = "the kgpt_jax authors"
copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints"]

# The notebook. "cache" executes it when it has changed; "off" shows it as it is.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Docstrings put code between single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
toc_object_entries = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # a NamedTuple's attributes are listed once, with their class
python_use_unqualified_type_names = True
nitpicky = True
nitpick_ignore_regex = [
    # Types of other projects: links to them would need a network.
    ("py:.*", r"(jax|flax|optax|numpy|np|jnp|nn|collections|pathlib|typing)(\..*)?"),
    ("py:.*", r"(Array|ArrayTree|Callable|Iterable|Path|Sequence|PRNGKey|Objective|Map|Told)"),
    ("py:class", r".* .*|[A-Z]"),  # sentences that Napoleon takes for types
    ("py:.*", r"kgpt_jax\.(data|model|train|store|answer|devices)\..*"),  # modules without a section here
]
doctest_test_doctest_blocks = ""  # examples in docstrings: pytest runs them

html_theme = "sphinx_book_theme"
html_title = "kgpt_jax"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_copyright = False
html_theme_options = {
    "home_page_in_toc": False,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
    "show_toc_level": 2,
}
