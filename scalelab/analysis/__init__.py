"""Questions beyond one fit: forecasts that are scored, and rollouts."""
