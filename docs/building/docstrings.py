"""An extension of Griffe that shows the examples of docstrings as code.

An example starts with a line `>>> ...` and ends with an empty line. Markdown would show it as a quotation.
"""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
LIST = re.compile(r"(?<=[^\n])\n(?=- )")


def as_markdown(docstring: str) -> str:
    """Returns the docstring as Markdown, with a fence around each example.

    Also adds an empty line before each list and before each line that starts with Raises, Source or Cost.
    """
    fenced = EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", docstring)
    return re.sub(r"(?m)^(?=(?:Raises|Source|Cost):? )", "\n", LIST.sub("\n\n", fenced))


class Examples(Extension):
    """Changes the docstring of every object that has examples."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
