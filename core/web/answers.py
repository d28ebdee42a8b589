"""What routes answer, as data: models that describe the JSON, for the document and for the tests, and never make it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

# The default of a member that is not always there.
SOMETIMES: Any = None

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-22T09:30:00.000Z"])]
Asset = Annotated[str, Field(examples=["CREDIT"])]
UserId = Annotated[str, Field(examples=["u_019aa5f07c3e5b1d9e4f2a68"])]
WalletId = Annotated[str, Field(examples=["w_9f2c51d07a3be8446c10d2f7"])]
# Credits in minor units of the asset.
Credits = Annotated[int, Field(examples=[500])]

Row = TypeVar("Row")


class View(BaseModel):
    """Base of all models of what is answered. It lists every member that there may be; the tests refuse any other."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for described in schema.get("properties", {}).values():
            # It says that a member may be missing, which `required` does already; nobody puts a value in its place.
            described.pop("default", None)
        return schema


class Page(View, Generic[Row]):
    """`next_cursor` is for the next page; null: this was the last one."""

    data: list[Row]
    next_cursor: str | None


class FieldError(View):
    field: Annotated[str, Field(examples=["amount"])]
    message: Annotated[str, Field(examples=["Input should be greater than 0"])]


class Refusal(View):
    """Why something was not done (RFC 9457). Branch on `code`; what stands after `errors` comes with some codes only."""

    type: Annotated[str, Field(examples=["urn:credit-system:problem:validation-failed"])]
    title: Annotated[str, Field(examples=["Validation failed"])]
    status: Annotated[int, Field(examples=[422])]
    code: Annotated[str, Field(examples=["validation-failed"])]
    detail: str = SOMETIMES
    errors: list[FieldError] = SOMETIMES
    # insufficient-funds
    available: int = SOMETIMES
    required: int = SOMETIMES
    # wallet-exists
    wallet_id: WalletId = SOMETIMES
    # duplicate-reference
    transaction_id: str = SOMETIMES
    # version-conflict
    version: int = SOMETIMES
    # scope-missing
    scope: str | None = SOMETIMES
    # too-many-...
    limit: int = SOMETIMES
    # batch-failed
    failed_index: int = SOMETIMES
    error: Refusal = SOMETIMES


class Problem(Refusal):
    """A refusal, with the id under which our logs know the request."""

    request_id: Annotated[str, Field(examples=["5f2b8c0e9a7d41f3b6c1e2d4"])]


# One of our models (JSON), or the media type of what is no JSON of ours.
Content = type[BaseModel] | str
# By status; None: no content. Several contents: the client chooses. A model alone stands for 200.
Answers = type[BaseModel] | Mapping[int, Content | tuple[Content, ...] | None]

NOTHING: Answers = {204: None}


def contents_by_status(answers: Answers) -> dict[int, tuple[Content, ...]]:
    """`answers` in the one form that all of them have."""
    if isinstance(answers, type):
        return {200: (answers,)}
    return {status: _as_tuple(content) for status, content in answers.items()}


def _as_tuple(content: Content | tuple[Content, ...] | None) -> tuple[Content, ...]:
    if isinstance(content, tuple):
        return content
    return () if content is None else (content,)
