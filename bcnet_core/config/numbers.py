"""The numbers of a recipe's settings, with their ranges."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(gt=0)]
Pixels = Annotated[int, Field(gt=0, le=16_384)]
"""Side of a network input; a checkpoint from elsewhere must not ask for more than memory holds."""
Convs = Annotated[int, Field(gt=0, le=64)]
Channels = Annotated[int, Field(gt=0, le=8192)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Epochs = Annotated[float, Field(ge=0, le=1_000_000)]


def _as_list(value: object) -> object:
    if value in ([], ()):
        raise PydanticCustomError("numbers", "a whole number or a list of them such as [4, 8]")
    return value if isinstance(value, list | tuple) else (value,)


Numbers = Annotated[tuple[Positive, ...], BeforeValidator(_as_list)]
"""At least one, written as a number or as a list."""


def _whole(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


WRITTEN_OUT = BeforeValidator(_whole)
"""For a choice of whole numbers: takes them as text too, as an override has them."""


def _milestone(value: object) -> int | float:
    with suppress(ValidationError):
        return _WHOLE.validate_python(value)
    with suppress(ValidationError):
        return _SHARE.validate_python(value)
    raise PydanticCustomError("milestone", "a step such as 60000 or a share of the run such as 0.7")


_WHOLE: TypeAdapter[int] = TypeAdapter(int)
_SHARE: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(gt=0, lt=1)])
Milestone = Annotated[int | float, PlainValidator(_milestone)]


def _number_or_auto(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(value)
    except ValidationError:
        raise PydanticCustomError("limit", f"a whole number from 1 to {MOST:,}, or auto") from None


MOST = 1_000_000
"""Largest number of detections."""
PositiveOrAuto = Annotated[Annotated[Positive, Field(le=MOST)] | Literal["auto"], WrapValidator(_number_or_auto)]
