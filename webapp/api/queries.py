"""Query parameters of the API: only those that are documented, each of them once unless it is a list."""

from __future__ import annotations

import inspect
from typing import get_origin, get_type_hints

from flask import Flask, abort, current_app, request

_KNOWN = "api_query_parameters"


def register(app: Flask) -> None:
    """Look at the query of every request to a documented view."""
    app.extensions[_KNOWN] = {
        rule.endpoint: _parameters(app, rule.endpoint)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("api_")
    }
    app.before_request(refuse_others)


def refuse_others() -> None:
    """Answer 400 to a parameter that is not known or given twice: it would be ignored in silence."""
    known = current_app.extensions[_KNOWN].get(request.endpoint)
    if known is None:
        return
    for name, values in request.args.lists():
        if name not in known:
            takes = f"There are: {', '.join(sorted(known))}." if known else "This address takes none."
            abort(400, f"There is no parameter {name[:40]!r}. {takes}")
        if len(values) > 1 and not known[name]:
            abort(400, f"The parameter {name} is given {len(values)} times. Keep one.")


def _parameters(app: Flask, endpoint: str) -> dict[str, bool]:
    """Return the parameters that a view takes, and for each whether it is a list."""
    model = get_type_hints(inspect.unwrap(app.view_functions[endpoint])).get("query")
    fields = model.model_fields if model is not None else {}
    return {field.alias or name: get_origin(field.annotation) is list for name, field in fields.items()}
