"""Pipeline schedules: tables of actions, what they cost, and the search for better ones."""

from pyjpllm.parallel.pipeline.executor import Stages, run
from pyjpllm.parallel.pipeline.named import NAMES, named, one_step_bubble, straight, v_shape
from pyjpllm.parallel.pipeline.parts import Part, balanced, parts_of
from pyjpllm.parallel.pipeline.search import search
from pyjpllm.parallel.pipeline.table import Action, Kind, Message, Schedule, check, forward_only
from pyjpllm.parallel.pipeline.tied import tied_group
from pyjpllm.parallel.pipeline.timeline import Costs, Event, Timeline, peak_memory, simulate, steady_bubble

__all__ = [
    "NAMES",
    "Action",
    "Costs",
    "Event",
    "Kind",
    "Message",
    "Part",
    "Schedule",
    "Stages",
    "Timeline",
    "balanced",
    "check",
    "forward_only",
    "named",
    "one_step_bubble",
    "parts_of",
    "peak_memory",
    "run",
    "search",
    "simulate",
    "steady_bubble",
    "straight",
    "tied_group",
    "v_shape",
]
