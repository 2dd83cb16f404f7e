"""Models, tables and paths that several tests use."""
