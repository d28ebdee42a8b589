"""What a hook's data must be: a checker built once, when the hook is declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_origin

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import is_typeddict

Checker = Callable[[Any], None]


def payload_checker(hook: str, payload: Any) -> Checker:
    """A function that raises TypeError for data that is no `payload`; None takes everything.

    `payload` is a class, or anything that pydantic can check: a TypedDict (of typing_extensions), a dataclass, `list[str]`,
    a union. Raises TypeError when it is none of these.
    """
    if payload is None:
        return lambda data: None
    name = payload_name(payload)
    if _is_class(payload) and not is_typeddict(payload):
        return _instances(hook, name, payload)
    try:
        adapter = TypeAdapter(payload)
    except PydanticUserError as error:
        raise TypeError(f"hook {hook!r}: data cannot be checked against {name}: {error.message}") from error
    return _validated(hook, name, adapter)


def payload_name(payload: Any) -> str:
    """How a payload is called where people read it."""
    if payload is None:
        return "any"
    return str(payload.__name__ if _is_class(payload) else payload)


def _is_class(payload: Any) -> bool:
    """Whether it is a class, and not one with parameters such as `list[str]`."""
    return isinstance(payload, type) and get_origin(payload) is None


def _instances(hook: str, name: str, payload: type) -> Checker:
    def check(data: Any) -> None:
        if not isinstance(data, payload):
            raise TypeError(f"hook {hook!r}: the data must be {name}, not {type(data).__name__}")

    return check


def _validated(hook: str, name: str, adapter: TypeAdapter[Any]) -> Checker:
    def check(data: Any) -> None:
        try:
            adapter.validate_python(data, strict=True)
        except ValidationError as error:
            # Where and what kind of mistake: the data itself may be nobody else's business.
            found = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'data'}: {each['type']}" for each in error.errors())
            raise TypeError(f"hook {hook!r}: the data must be {name}: {found}") from None

    return check
