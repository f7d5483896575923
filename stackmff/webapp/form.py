"""The options of fusion that the page offers: those with a label."""

from collections.abc import Mapping
from typing import Any

from stackmff.errors import StackError
from stackmff.fusion.options import FuseOptions
from stackmff.options import build, form


def fuse_form() -> list[dict[str, Any]]:
    """The fields of the page's form, ready for JSON; see options.form."""
    return [field for field in form(FuseOptions) if field["label"] is not None]


def check_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the values that a page sends for the fields of its form.

    Args:
        values: {name of a field: value}, from JSON; fields may be missing.
    Returns:
        The values.
    Raises:
        StackError: a name is not a field of the form, or a value is out of range, of another type,
            or contradicts another one.
    """
    known = {field["name"] for field in fuse_form()}
    for name in values:
        if name not in known:
            raise StackError(f"{name!r} is not an option of this page: reload the page")
    out = dict(values)
    build(FuseOptions, out)
    return out
