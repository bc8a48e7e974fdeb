"""Properties beyond accuracy: how each is measured and shown. A new one is a file here, and a line below."""

from __future__ import annotations

from .property import Artifacts, Property, Row, Subject
from .rows import ATTENTION_RANK, CALIBRATION, CORRUPTIONS, SHAPE_BIAS, measured, was_measured

__all__ = [
    "PROPERTIES",
    "Artifacts",
    "Property",
    "Row",
    "Subject",
    "measured",
    "property_tables",
    "was_measured",
]

PROPERTIES: dict[str, Property] = {one.name: one for one in (CALIBRATION, SHAPE_BIAS, ATTENTION_RANK, CORRUPTIONS)}


def property_tables(artifacts: Artifacts) -> list[tuple[str, tuple[str, ...], int, list[Row]]]:
    """Title, columns, columns of words, and rows of each property that was measured."""
    tables = [(one.title, one.columns, one.left, one.rows(artifacts)) for one in PROPERTIES.values()]
    return [table for table in tables if table[-1]]
