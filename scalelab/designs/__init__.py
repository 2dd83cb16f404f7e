"""Design of experiments: the runs that most lower the doubt of a target for their price."""
