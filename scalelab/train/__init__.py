"""Training: one resolved config in, one record out."""
