"""Results of several groups of records, by group name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar

from scalelab.errors import ScalelabError, UsageError
from scalelab.shown import Shown, load_name
from scalelab.units import plural

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.fit.result import FitResult
    from scalelab.fit.select import LawComparison
else:  # so that the base classes below do not import their contents
    FitResult = LawComparison = Any

T = TypeVar("T")


class Several(Shown, Mapping[str, T], Generic[T]):
    """A mapping of group name to result, which also accepts an unambiguous prefix of a name.

    `failures` holds, by group, the error that prevented a result.
    """

    _verbs: ClassVar[tuple[str, ...]]  # attributes of a single result

    def __init__(
        self, results: Mapping[str, T], failures: Mapping[str, ScalelabError] | None = None, slugs: Any = None
    ) -> None:
        self._results = dict(results)
        self.failures: Mapping[str, ScalelabError] = dict(failures or {})
        self.slugs: Mapping[str, str] = dict(slugs or {})  # file name part by group

    def __getitem__(self, group: str) -> T:
        if group in self._results:
            return self._results[group]
        found = [name for name in self._results if name.startswith(group)]
        if len(found) != 1:
            raise KeyError(f"{group!r}: {'ambiguous prefix' if found else 'no such group'}; {self._choose()}")
        return self._results[found[0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __getattr__(self, name: str) -> NoReturn:
        if not name.startswith("_") and name in self._verbs:
            raise UsageError(f"`{name}` needs a single group, and there are {len(self)}: {self._choose()}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _choose(self) -> str:
        names = ", ".join(repr(name) for name in self._results)
        return f"choose one, result[{next(iter(self._results), '')!r}], or select rows with `where`; there are {names}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {plural(len(self), 'group')}: {', '.join(self)}>"

    def to_frame(self) -> pd.DataFrame:
        """Return the tables of all groups, concatenated, with the group in the index."""
        import pandas as pd

        frames: dict[str, Any] = {name: result.to_frame() for name, result in self.items()}  # type: ignore[attr-defined]
        return pd.concat(frames, names=["group"])


class FitResults(Several[FitResult]):
    """Fits of several groups of comparable runs, by group name."""

    _verbs: ClassVar[tuple[str, ...]] = (
        *("params", "predict", "averaged", "losses", "n_equivalent", "doubling_gain", "compute_optimal", "profile"),
        *("notes", "residuals", "status", "r_squared", "interval", "equation"),
    )
    _report: ClassVar[str] = "scalelab.reports.fits:fits_report"
    _figure: ClassVar[str] = "scalelab.plot.fits:plot_fits"
    _json: ClassVar[str] = "scalelab.reports.fits:fits_json"

    def stem(self, group: str) -> str:
        """Return the file name for the fit of a group, without suffix; it contains all non-default options."""
        from scalelab.file_names import slug
        from scalelab.fit.files import fit_name

        return fit_name(self.slugs.get(group) or slug(group), self[group])

    def explore(self, height: int = 900) -> Any:
        """Return the interactive explorer of all groups, which Jupyter shows in a frame of `height` pixels."""
        return load_name("scalelab.page.widget:explore")(self.values(), height)

    def save(self, folder: str | Path, force: bool = False) -> dict[str, Path]:
        """Save each fit to a separate file in `folder` and return the paths by group.

        Raises:
            ScalelabError: a fit does not describe its runs; the others are saved. With `force` it is saved too.
            UsageError: a file holds another fit, and `force` is false; nothing is saved.
        """
        from scalelab.fit.files import save_fits

        saved, failures = save_fits(self, folder, self.slugs, force)
        for error in failures.values():
            raise error
        return saved


class Comparisons(Several[LawComparison]):
    """Comparisons of laws for several groups of comparable runs, by group name."""

    _verbs: ClassVar[tuple[str, ...]] = ("rows", "verdict", "left_out")
    _report: ClassVar[str] = "scalelab.reports.laws:comparisons_report"
    _json: ClassVar[str] = "scalelab.reports.laws:comparisons_json"
