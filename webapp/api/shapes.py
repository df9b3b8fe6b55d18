"""What the API takes and gives, as strict pydantic models: unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text255 = Annotated[str, Field(min_length=1, max_length=255)]
RunId = Annotated[str, Field(min_length=1, max_length=36)]


class Strict(BaseModel):
    """A shape that takes nothing it does not know and turns nothing into something else."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RunPath(Strict):
    """The run that an address names."""

    run_id: RunId


class StartRun(Strict):
    """The body of `POST /start_run`."""

    workflow_name: Text255
    run_id: RunId | None = None
    metadata: dict[str, Any] | None = None
    environment: Literal["dev", "staging", "prod"] | None = None


class Problem(BaseModel):
    """The shape of every error."""

    detail: Any
    code: str
    request_id: str


class RunStarted(BaseModel):
    """The answer to `POST /start_run`."""

    run_id: str
    status: str
    environment: str
