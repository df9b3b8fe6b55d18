"""Bodies are read whole or not at all, whatever server and form of transfer they come by."""

from __future__ import annotations

import io
from typing import IO

from flask import Request, abort
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.utils import cached_property  # that of functools lets only one thread in before Python 3.12

CUT_OFF = "The body did not arrive as a whole. Nothing was changed; send the request again."


class WholeRequest(Request):
    """A request whose body, for the API and for forms alike, counts only when all of it has arrived."""

    @cached_property
    def stream(self) -> IO[bytes]:
        """Return the whole body; abort with 400 when it was cut off, with 413 when it is too long.

        Servers end a body where the connection ended, and werkzeug ends one of unknown length at the limit.
        """
        announced, limit = self.content_length, self.max_content_length or 0
        if announced is None and "wsgi.input_terminated" not in self.environ:
            return io.BytesIO()  # nothing says where it ends
        if announced is not None and announced > limit:
            raise RequestEntityTooLarge
        body = self._read(limit + 1 if announced is None else announced)
        if len(body) > limit:
            raise RequestEntityTooLarge
        if announced is not None and len(body) < announced:
            abort(400, CUT_OFF)
        return io.BytesIO(body)

    def _read(self, most: int) -> bytes:
        try:
            body: bytes = self.environ["wsgi.input"].read(most)
        except Exception:  # each server has classes of its own for chunks that are none and for silence
            abort(400, CUT_OFF)
        return body
