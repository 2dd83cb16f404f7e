"""Which runs to do next: those that most lower the doubt of a target for their price."""
