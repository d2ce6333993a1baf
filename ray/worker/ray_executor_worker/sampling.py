"""The sampling parameters of a call: the request's, and over them the agent's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def parameters(sampling: Any) -> dict[str, Any]:
    """The fields that a Sampling message sets, as a chat completion's body names them.

    A field that is not set is not sent, so the model server's default applies.
    Submit has checked the ranges, and the keys of `extra`.
    """
    found: dict[str, Any] = {}
    for field, value in sampling.ListFields():
        if field.name == "extra":
            found.update(_plain(value))
        elif field.name == "stop":
            found["stop"] = list(value)
        else:
            found[field.name] = value
    return found


def _plain(struct: Any) -> Mapping[str, Any]:
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: Any) -> Any:
    """A google.protobuf.Value as JSON has it; its numbers are all floating-point."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _plain(value.struct_value)
    if kind == "list_value":
        return [_value(one) for one in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    return None if kind in (None, "null_value") else getattr(value, kind)
