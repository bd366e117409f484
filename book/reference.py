"""A Sphinx extension: the reference of the package from its docstrings, read without importing it or PyTorch."""

import ast
from pathlib import Path

from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.docutils import SphinxDirective

PACKAGE = Path(__file__).parent.parent / "mamlcourse"
NAPOLEON = Config(napoleon_use_ivar=True, napoleon_use_rtype=False)


def public_names():
    """{title of a section: names}, in the order of `mamlcourse/api.py`: a section for each module it takes from."""
    tree = ast.parse((PACKAGE / "api.py").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {node.module: [alias.name for alias in node.names] for node in imports}


def definition(module, name):
    """The syntax tree of a class, a function or a constant, wherever the module has it from; None if it is computed."""
    path = PACKAGE.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return definition(f"{module}.{node.module}" if path.is_dir() else node.module, name)
    return None


def documented(node, indent):
    """The lines of a docstring as reStructuredText."""
    text = ast.get_docstring(node) or ""
    text = text.replace("`", "``").replace("````", "``").replace("**", r"\*\*")  # the docstrings' `code` is Markdown's
    lines = str(GoogleDocstring(text, NAPOLEON)).splitlines()
    return [*(indent + line if line else "" for line in lines), ""]


def signature(function, method=False):
    arguments = ast.parse(ast.unparse(function)).body[0].args
    if method:
        arguments.args = arguments.args[1:]
    for argument in (*arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None  # types stand in the source; the text says what a thing must be
    return f"({ast.unparse(arguments)})"


def entry(node, indent=""):
    """One class, with its public methods, or one function."""
    if isinstance(node, ast.FunctionDef):
        return [f"{indent}.. py:function:: {node.name}{signature(node)}", "", *documented(node, indent + "   ")]
    inner = indent + "   "
    functions = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    made = next((signature(part, method=True) for part in functions if part.name == "__init__"), "")
    lines = [f"{indent}.. py:class:: {node.name}{made}", "", *documented(node, inner)]
    for part in functions:
        if part.name.startswith("_") or not ast.get_docstring(part):
            continue
        marks = {ast.unparse(mark) for mark in part.decorator_list}
        if marks & {"property", "cached_property"}:
            lines += [f"{inner}.. py:property:: {part.name}", "", *documented(part, inner + "   ")]
        elif not any(mark.endswith(".setter") for mark in marks):
            kind = "classmethod" if "classmethod" in marks else "method"
            static = "staticmethod" in marks
            shown = signature(part, method=not static)
            lines += [f"{inner}.. py:{kind}:: {part.name}{shown}", "", *documented(part, inner + "   ")]
    return lines


class Reference(SphinxDirective):
    """All public names, a section for each module."""

    def run(self):
        lines = []
        for module, names in public_names().items():
            title = f"mamlcourse.{module}"
            lines += [title, "-" * len(title), "", ".. py:currentmodule:: mamlcourse", ""]
            for name in names:
                if found := definition(module, name):
                    lines += entry(found)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app):
    app.add_directive("reference", Reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
