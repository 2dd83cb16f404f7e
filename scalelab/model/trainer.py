"""Callback for the Trainer of transformers, and trainers based on it, such as those of TRL."""

from __future__ import annotations

from typing import Any

from transformers.trainer_callback import TrainerCallback

from scalelab.model.language_model import StreamedLM


class StreamsCallback(TrainerCallback):
    """Keeps the number of active streams with the Trainer's state, and refuses to resume with another one.

    The optimizer's state belongs to the parameters that were trained, which other streams do not use. After
    ``import scalelab.model`` every Trainer has this callback by default. It does nothing for models without streams.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Compare the streams with those of the state.

        Raises:
            ValueError: Another number of streams is active.
        """
        streamed = next((module for module in model.modules() if isinstance(module, StreamedLM)), None)
        if streamed is None:
            return
        saved = state.stateful_callbacks.get(type(self).__name__, {})
        trained = saved.get("attributes", {}).get("P")
        if state.global_step and trained not in (None, streamed.P):
            raise ValueError(
                f"the checkpoint was trained with P = {trained}, but P = {streamed.P} is active; call "
                f"model.set_streams({trained}) before train(), or start without resume_from_checkpoint"
            )
        # Here and not through the Trainer's ExportableState, which would add an entry for models without streams.
        state.stateful_callbacks[type(self).__name__] = {"args": {}, "attributes": {"P": streamed.P}}
