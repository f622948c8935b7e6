"""Pipeline schedules: tables of actions, what they cost, and the search for better ones."""

from pyjpllm.parallel.pipeline.named import NAMES, named, one_step_bubble, straight, v_shape
from pyjpllm.parallel.pipeline.search import search
from pyjpllm.parallel.pipeline.table import Action, Kind, Message, Schedule, check
from pyjpllm.parallel.pipeline.timeline import Costs, Event, Timeline, peak_memory, simulate, steady_bubble

__all__ = [
    "NAMES",
    "Action",
    "Costs",
    "Event",
    "Kind",
    "Message",
    "Schedule",
    "Timeline",
    "check",
    "named",
    "one_step_bubble",
    "peak_memory",
    "search",
    "simulate",
    "steady_bubble",
    "straight",
    "v_shape",
]
