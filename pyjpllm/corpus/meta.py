"""What may stand in a document's meta: the values that JSON has, nested no deeper than any reader follows."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

MAX_DEPTH = 100
"""Objects and arrays within each other. Python's json follows ten times as many, but reads deeper than it writes."""


def too_deep(value: Any) -> bool:
    """Whether objects and arrays stand within each other more than ``MAX_DEPTH`` times."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            part
            for each in level
            if isinstance(each, Mapping | list | tuple)
            for part in (each.values() if isinstance(each, Mapping) else each)
        ]
        if not level:
            return False
    return True


def plain(value: Any) -> Any:
    """A value of a Parquet file as one of JSON: NaN, which stands for what is missing there, is null; points of time
    are written as in ISO 8601, spans of it in seconds, decimal numbers and UUIDs as text, bytes as text where they are
    UTF-8 and else in base64.

    Raises ValueError for an infinite number, and for what is none of these.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError(f"{value} is no number of JSON")
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise ValueError(f"a {type(value).__name__} is no value of JSON")


def rows(batch: Any) -> list[dict[str, Any]]:
    """The rows of a pyarrow record batch by the names of its columns, with points of time to the microsecond.

    Python's have no more digits: pyarrow gives those of pandas for nanoseconds, or an error where that is not
    installed, and the same file must give the same documents everywhere.
    """
    import pyarrow as pa

    for place, field in enumerate(batch.schema):
        wanted = None
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            wanted = pa.timestamp("us", field.type.tz)
        elif field.type == pa.time64("ns"):
            wanted = pa.time64("us")
        if wanted is not None:
            batch = batch.set_column(place, field.name, batch.column(place).cast(wanted, safe=False))
    found: list[dict[str, Any]] = batch.to_pylist()
    return found
