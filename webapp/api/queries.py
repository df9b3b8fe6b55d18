"""Query parameters of the API: only those that are documented, each of them once."""

from __future__ import annotations

import inspect
from typing import get_type_hints

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
        if len(values) > 1:
            abort(400, f"The parameter {name} is given {len(values)} times. Keep one.")


def _parameters(app: Flask, endpoint: str) -> frozenset[str]:
    model = get_type_hints(inspect.unwrap(app.view_functions[endpoint])).get("query")
    if model is None:
        return frozenset()
    return frozenset(field.alias or name for name, field in model.model_fields.items())
