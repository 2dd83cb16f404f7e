"""Downstream tasks: small ones from held-out text, and those of lm-eval, scored with each number of streams."""
