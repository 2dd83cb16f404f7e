"""Callback for the Trainer of transformers, and trainers based on it, such as those of TRL."""

from __future__ import annotations

from typing import Any

from transformers.trainer_callback import ExportableState, TrainerCallback


class StreamsCallback(TrainerCallback, ExportableState):
    """Keeps the number of active streams with the Trainer's state, and refuses to resume with another one.

    The optimizer's state belongs to the parameters that were trained, which other streams do not use.
    """

    def __init__(self, P: int | None = None) -> None:
        self.P = P

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Compare the streams with those of the state.

        Raises:
            ValueError: Another number of streams is active.
        """
        active = model.P
        saved = state.stateful_callbacks.get(type(self).__name__, {})
        saved = saved[-1] if isinstance(saved, list) else saved
        trained = saved.get("args", {}).get("P")
        if state.global_step and trained not in (None, active):
            raise ValueError(
                f"the checkpoint was trained with P = {trained}, but P = {active} is active; call "
                f"model.set_streams({trained}) before train(), or start without resume_from_checkpoint"
            )
        self.P = active

    def state(self) -> dict[str, Any]:
        """Return what the Trainer saves."""
        return {"args": {"P": self.P}, "attributes": {}}
