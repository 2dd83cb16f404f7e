"""Questions about several fits and groups of runs: compute-optimal sizes by IsoFLOP, and recipes compared by compute.

`isoflop` finds the best N at equal training FLOPs, `recipes` the compute that one recipe saves over another.
"""
