"""Griffe extension that adapts the package's docstrings for the site.

`Returns` and `Source`, which the package writes as prose, stay prose, and `Example:` becomes griffe's `Examples:`.
"""

import re

import griffe

RETURNS = re.compile(r"^Returns:\n((?:    .*\n?|\n)+)", re.M)
INDENTED = re.compile(r"^(\S.*:)\n((?:    \S.*\n)+)", re.M)  # `Signatures, ...:` and its lines
SECTIONS = ("Args:", "Raises:", "Attributes:", "Examples:")


class Sections(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj, **_):
        """Called by griffe with every object it has read."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text) -> str:
    """The docstring with sections in the form that griffe and Markdown expect."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
    text = re.sub(r"^Source: ", "**Source:** ", text, flags=re.M)
    text = RETURNS.sub(lambda match: f"**Returns:** {re.sub(r'^    ', '', match[1], flags=re.M)}", text)
    return INDENTED.sub(_as_list, text)


def _as_list(match):
    """Turns lines under an unknown heading into a list, split at semicolons."""
    if match[1] in SECTIONS:
        return match[0]
    entries = re.split(r";\n", re.sub(r"^    ", "", match[2], flags=re.M))
    return f"{match[1]}\n\n" + "\n".join("- " + entry.replace("\n", "\n  ").rstrip() for entry in entries) + "\n\n"
