"""What every form of the pages shares."""

from __future__ import annotations

from typing import Any

from flask_wtf import FlaskForm
from wtforms import Field


class Form(FlaskForm):
    """A form whose token `webapp.csrf` has checked before the view runs."""

    class Meta:
        csrf = False


def stripped(text: Any) -> Any:
    """Remove blanks around what was typed; for `filters=[stripped]`."""
    return text.strip() if isinstance(text, str) else text


def errors_of(form: FlaskForm) -> list[str]:
    """Return every error of a form in one list, by label; for answers without room for the fields."""
    found = []
    for field in form:
        found += [f"{_label(field)}: {error}" for error in field.errors]
    return found


def _label(field: Field) -> str:
    return str(field.label.text)
