"""Against a clock: what this device reaches, and what a model really takes on it. Imports torch."""
