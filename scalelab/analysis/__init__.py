"""Questions beyond one fit.

`isoflop` finds the best N at equal training FLOPs, `recipes` the compute that one recipe saves over another, `scoring`
whether earlier forecasts held, and `rollout` what earlier fits would have forecast.
"""
