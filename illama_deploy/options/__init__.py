"""Options: each declared once, in the group that it belongs to (`groups.py`), and what each step takes (`steps.py`)."""

from .declare import Declared, Found, Options, argument, group, option
from .step import Step, step

__all__ = ["Declared", "Found", "Options", "Step", "argument", "group", "option", "step"]
