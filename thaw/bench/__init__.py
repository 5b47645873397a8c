"""What this machine can move, and what share of it every backend reaches."""

from .ceilings import measure_ceilings
from .rows import Row, measure_rows
from .task import Task
from .ways import Ceiling, Way

__all__ = ["Ceiling", "Row", "Task", "Way", "measure_ceilings", "measure_rows"]
