"""A started sweep without training, for tests of its state and progress."""

from scalelab.architecture import architecture_for
from scalelab.sweep.state import StateFile
from scalelab.sweep.tasks import Event, make_tasks
from scalelab.train.recipe import Recipe, RunConfig, TextSource


def imagined():
    shape = architecture_for(25e3, 512, prefix_tokens=4)
    return make_tasks(
        RunConfig(shape.with_streams(P), 512 * 100, 0, TextSource("", "", "", ""), Recipe(dtype="fp32")) for P in (1, 2)
    )


def begin(out, tasks):
    state = StateFile(out, tasks, "imagined", "cpu", "local")
    state(Event("started", tasks[0]))
    state(Event("progress", tasks[0], {"step": 50, "loss": 3.25, "tokens_per_s": 12_800.0}))
    return state
