"""A server for one person on one machine: the explorer with fits of tables that are dropped on it."""
