"""Meaning of every note and warning, and what to do about it: for the reference page and the report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """The entry of one or several codes. Text in backticks is code; the severity of warnings about streams is empty."""

    codes: tuple[str, ...]
    severity: str
    means: str
    do: str


# By topic.
ADVICE: dict[str, tuple[Advice, ...]] = {
    "Too few runs": (
        Advice(
            ("no_freedom",),
            "serious",
            "no more configurations than parameters: the law passes through them whatever the truth is",
            "add runs, or fix parameters",
        ),
        Advice(
            ("few_runs",),
            "warning",
            "fewer than four configurations a parameter: intervals are rough, those of E and A too narrow",
            "add runs, best at new N",
        ),
        Advice(("few_N",), "warning", "too few different N for their shape and the floor", "run more values of N"),
        Advice(("few_D",), "warning", "the same for D", "run more values of D"),
        Advice(
            ("few_P",), "warning", "two values of P show that streams help, not how that goes on", "run three or more"
        ),
        Advice(("few_C",), "warning", "too few values of compute", "run more"),
        Advice(("few_U",), "warning", "too few values of unique tokens", "run more"),
        Advice(("few_X",), "warning", "too few values of experts", "run more"),
        Advice(("few_lr",), "warning", "too few learning rates", "run more"),
        Advice(("few_B",), "warning", "too few batch sizes", "run more"),
        Advice(
            ("one_P",),
            "warning",
            "only one P was run: the effect of P is left at none",
            "run others, or use a law without P",
        ),
        Advice(
            ("P_ignored",),
            "warning",
            "P varies, and the law does not know it",
            "choose a law with P, or `where='P == 1'`",
        ),
        Advice(
            ("narrow_N",),
            "warning",
            "N spans less than a factor of 4: E and α cannot be separated",
            "run smaller or larger models",
        ),
        Advice(
            ("fixed_ratio",),
            "serious",
            "D/N is the same in every run: the terms of N and D cannot be separated",
            "vary D at one N, or `law='compute'`",
        ),
    ),
    "Rows": (
        Advice(
            ("tuning",),
            "serious",
            "rows of one configuration differ by more than seeds do: a tuning sweep",
            "`best`, or `objective='asymmetric'`",
        ),
        Advice(("best",), "note", "only the best row of each configuration was fitted", ""),
        Advice(
            ("points",),
            "note",
            "rows were points of curves: which of them were fitted",
            "`points='all'` or `points='final'`, if that was not meant",
        ),
        Advice(("optimum_rows",), "note", "which rows the best learning rate and batch size are from", ""),
        Advice(
            ("mixed_runs",),
            "warning or note",
            "runs differ in precision, vocabulary, device, library versions or code",
            "fit them apart with `where`, or compare pairs",
        ),
        Advice(("repeats",), "note", "seeds: how many, and how much they differ", ""),
        Advice(("copies",), "warning", "rows repeat N, P, D and loss to the last digit", "remove copies"),
        Advice(("seed_noise",), "warning", "seeds differ by more than all of P's effect", "add seeds"),
        Advice(
            ("unfinished",),
            "warning or note",
            "runs without a loss: diverged, out of memory, failed, interrupted",
            "resume the sweep; do not read the law as one of runs that diverged",
        ),
        Advice(
            ("streams_in_N",),
            "warning",
            "the streams' own parameters add more than 5 % to N",
            "compare with `count='backbone'`",
        ),
    ),
    "Units": (
        Advice(
            ("unit_loss",),
            "warning",
            "losses look like perplexities, or like bits per byte",
            "`columns={'loss': 'ln(COLUMN)'}`",
        ),
        Advice(
            ("unit_N",),
            "warning",
            "N looks like millions or billions, or mixes units",
            "`columns={'n_params': '1e6*COLUMN'}`",
        ),
        Advice(
            ("unit_D",), "warning", "D looks like tokens per parameter", "`columns={'n_tokens': 'COLUMN*n_params'}`"
        ),
    ),
    "Misfit": (
        Advice(
            ("explains_nothing",),
            "serious",
            "the fit does not describe these runs; it is not saved",
            "look at the data and the other notes",
        ),
        Advice(("outlier",), "warning", "one run is far off the law", "look at that run"),
        Advice(
            ("outliers",),
            "warning",
            "many are: diverged or untuned runs, another kind of run, other units",
            "`where`, `best`, `objective='asymmetric'`",
        ),
        Advice(
            ("leverage",), "warning", "one run moves a parameter by more than 1.5 standard errors", "repeat that run"
        ),
    ),
    "The optimum": (
        Advice(
            ("at_bound",),
            "serious",
            "a parameter ended at a limit: the data do not determine it",
            "more runs, `fix`, or a smaller law",
        ),
        Advice(
            ("degenerate",),
            "serious",
            "a combination of parameters makes no difference: their values mean nothing alone",
            "a smaller law, or more variation",
        ),
        Advice(
            ("starts_disagree",),
            "serious",
            "few starts found this optimum; there may be a better one",
            "`starts=1000`, or a smaller law",
        ),
        Advice(
            ("not_converged",),
            "serious",
            "the objective still falls at the end",
            "`starts=1000`; if it stays, report it",
        ),
        Advice(
            ("start_is_optimum",),
            "warning",
            "the optimum is the very point where its start was drawn",
            "another `seed`",
        ),
    ),
    "Intervals": (
        Advice(
            ("E_alpha_tied",),
            "note",
            "E and α trade off: neither means much alone, predictions inside the runs are unaffected",
            "a wider range of N",
        ),
        Advice(
            ("E_unresolved",),
            "warning",
            "the floor cannot be told from these sizes; far predictions mean little",
            "larger models",
        ),
        Advice(
            ("k_unresolved", "gamma_unresolved", "rho_unresolved", "B_unresolved", "S_unresolved"),
            "warning",
            "the interval of this parameter holds the value at which streams do nothing",
            "more seeds, larger P",
        ),
        Advice(
            ("k_against", "gamma_against", "rho_against", "B_against", "S_against"),
            "note",
            "streams made the loss worse for their N",
            "`count='backbone'`; train longer",
        ),
        Advice(
            ("extrapolation",),
            "warning or serious",
            "a prediction lies outside the runs, by this factor; serious from 10 on",
            "run closer to it",
        ),
    ),
    "IsoFLOP": (
        Advice(
            ("isoflop_outside",),
            "serious",
            "a budget's minimum is not between the sizes that were trained",
            "add sizes on that side",
        ),
        Advice(
            ("isoflop_off_centre",),
            "warning",
            "minima lie in the outer quarter of their sizes, where a quadratic is biased",
            "add sizes on that side",
        ),
        Advice(
            ("isoflop_wide",),
            "warning",
            "sizes reach so far that the loss is no quadratic in ln N",
            "`window=4`",
        ),
        Advice(
            ("isoflop_biased",),
            "warning",
            "on the fitted law these sizes give a best N that is off by more than 3 %",
            "centre the sizes, or a smaller `window`",
        ),
        Advice(
            ("isoflop_few_sizes",),
            "warning",
            "budgets with fewer than five sizes",
            "train more N at each budget",
        ),
        Advice(
            ("isoflop_flat",),
            "warning",
            "the interval of a best N is open: the loss is flat for its noise",
            "more seeds, sizes further out",
        ),
        Advice(
            ("isoflop_few_budgets",),
            "warning",
            "exponents from fewer than four budgets",
            "more budgets",
        ),
        Advice(
            ("isoflop_no_exponents",),
            "warning",
            "fewer than two budgets have a minimum",
            "more budgets, centred sizes",
        ),
        Advice(
            ("isoflop_scatter",),
            "warning",
            "minima scatter around their line more than their errors allow; intervals are widened",
            "look for a bend, or for budgets off centre",
        ),
        Advice(
            ("isoflop_disagrees",),
            "warning",
            "exponents by IsoFLOP and by the law do not overlap",
            "compare laws; `window=4`",
        ),
        Advice(
            ("isoflop_uneven",),
            "warning",
            "runs of one budget differ in FLOPs",
            "plan the sweep with `isoflop`",
        ),
        Advice(
            ("isoflop_left_out",),
            "note",
            "runs that are in no budget",
            "`budgets`, if they belong to one",
        ),
        Advice(
            ("isoflop_no_law",),
            "note",
            "no law could be fitted to compare with",
            "more variation of N and D",
        ),
        Advice(
            ("isoflop_envelope",),
            "note",
            "curves end before their learning rate has decayed, which favours other sizes",
            "trust finished runs",
        ),
    ),
    "Recipes": (
        Advice(
            ("versus_not_shared",),
            "warning",
            "the recipes do not share exponents: the multiplier changes with the loss",
            "read the multipliers at both ends of the losses",
        ),
        Advice(
            ("versus_other_factor",),
            "warning",
            "the second recipe multiplies something else, such as D",
            "`factor`",
        ),
        Advice(
            ("versus_no_difference",),
            "note",
            "without a difference the law describes both recipes as well",
            "more seeds, more sizes",
        ),
        Advice(
            ("versus_few_runs",),
            "warning",
            "fewer than four configurations a parameter",
            "add runs",
        ),
        Advice(
            ("versus_uncertain",),
            "warning",
            "the shared law is not determined",
            "a smaller law, or more variation",
        ),
        Advice(
            ("versus_other_text",),
            "warning",
            "tokenizers or texts differ, so losses are of different things",
            "bits per byte; the same validation text",
        ),
        Advice(
            ("versus_other_D",),
            "warning",
            "D differs between the recipes and the law ignores it",
            "compare at equal D, or `law='chinchilla'`",
        ),
        Advice(
            ("versus_P_ignored",),
            "warning",
            "P varies within a recipe and the law ignores it",
            "`where`, or `law='joint'`",
        ),
        Advice(
            ("versus_other_device",),
            "warning",
            "seconds are of different devices",
            "compare FLOPs",
        ),
    ),
    "Designs": (
        Advice(
            ("design_pilot",),
            "note",
            "nothing is known yet, so the runs only fill the space",
            "train them, then design again with their records",
        ),
        Advice(
            ("design_small_pilot",),
            "warning",
            "the pilot has too few runs for a law",
            "a larger budget",
        ),
        Advice(
            ("design_no_gain", "design_small_gain"),
            "warning",
            "no affordable run narrows the target, or all of them hardly do",
            "a larger budget, or larger candidates",
        ),
        Advice(
            ("design_missing",),
            "warning",
            "runs of the design that is updated have no record yet",
            "train them with `scalelab sweep`",
        ),
    ),
    "Streams": (
        Advice(
            ("stream_collapse",),
            "",
            "the streams are nearly copies: their losses correlate above 0.99",
            "draw prefixes wider, start from text, train longer",
        ),
        Advice(
            ("weight_monoculture",),
            "",
            "the mixture leans on one stream",
            "lower the aggregator's learning rate, raise its smoothing, or average",
        ),
    ),
}
_BY_CODE = {code: advice for topic in ADVICE.values() for advice in topic for code in advice.codes}


def advice_of(code: str) -> Advice | None:
    """Return the entry of a code; None if there is none."""
    return _BY_CODE.get(code)
