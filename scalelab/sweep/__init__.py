"""Sweeps: a spec, its resolved runs, and the local workers that train them."""
