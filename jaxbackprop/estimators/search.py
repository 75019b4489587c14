"""`SweepSearchCV`: `GridSearchCV`'s interface, all candidates and all folds trained together."""

import time
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from sklearn.base import _fit_context, clone, is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, ParameterGrid, ParameterSampler, check_cv
from sklearn.utils import indexable
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_method_params

from jaxbackprop.estimators.candidates import final_step, one_by_one
from jaxbackprop.estimators.evaluate import Row, Search, evaluate, evaluate_one_by_one
from jaxbackprop.estimators.search_plot import plot_search
from jaxbackprop.estimators.trainer import MEMORY


class SweepSearchCV(GridSearchCV):
    """Cross-validated search over the parameters of a network, with the contract of scikit-learn's `GridSearchCV`, or
    with `n_iter` of its `RandomizedSearchCV`.

    Candidates are trained together, on all folds at once, in few compiled programs. They share a program if they
    differ in `hidden_layer_sizes` (of the same depth), `activation`, `alpha`, `learning_rate_init`, `momentum` and, for
    full batches, `random_state`; other parameters take a program each for their values, or at least a run.
    Call `jaxbackprop.use_all_cores()` first to spread the work over all cores.

    **Arguments:**
    - `estimator`: a `BackpropClassifier` or `BackpropRegressor`, or a `Pipeline` that ends in one. The steps before it
      are fitted once a fold, not once a candidate.
    - `param_grid`: a dict of lists, or a list of such dicts; with `n_iter` also scipy's distributions.
    - `scoring`: a scorer's name, a callable, several of them in a list or dict, or None for the estimator's own score.
    - `cv`: a number of folds, a splitter, or pairs of index arrays.
    - `refit`: whether to fit the best candidate on all samples; with several scores the name of the one to choose by,
      or a callable that chooses from `cv_results_`.
    - `error_score`: what a candidate scores that diverges or cannot be fitted, or "raise".
    - `return_train_score`: whether to score the samples trained on, too.
    - `verbose`: whether to say how many networks are trained.
    - `n_iter`, `random_state`: how many candidates to draw, and the seed of the draw.
    - `memory_budget`: bytes that the training may take, on all devices together; a search that cannot is refused.

    **Attributes:** those of `GridSearchCV`. `cv_results_` has its keys; a fit time there is the candidate's share of
    the time that all candidates took together.
    """

    _parameter_constraints: dict = {  # noqa: RUF012  scikit-learn's convention
        **GridSearchCV._parameter_constraints,
        "n_iter": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "memory_budget": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        scoring: Any = None,
        cv: Any = None,
        refit: Any = True,
        error_score: Any = np.nan,
        return_train_score: Any = False,
        verbose: Any = 0,
        n_iter: Any = None,
        random_state: Any = None,
        memory_budget: Any = MEMORY,
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            refit=refit,
            cv=cv,
            verbose=verbose,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.n_iter = n_iter
        self.random_state = random_state
        self.memory_budget = memory_budget

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, **params: Any) -> "SweepSearchCV":
        """Train and score all candidates, then the best one on all samples.

        **Arguments:** `X`, (n_samples, n_features); `y`, the labels or numbers to predict; `params`, `groups` for the
        splitter, and what the estimator's `fit` takes, such as `sample_weight`.

        **Raises:** `ValueError` as scikit-learn does, and if no candidate could be fitted.
        """
        prefix, _ = final_step(self.estimator)
        scorers, refit_metric = self._get_scorers()
        X, y = indexable(X, y)
        params = _check_method_params(X, params=params)
        routed = self._get_routed_params_for_fit(params)
        cv = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        self.n_splits_ = cv.get_n_splits(X, y, **routed.splitter.split)
        splits = list(cv.split(X, y, **routed.splitter.split))
        if len(splits) != self.n_splits_:
            raise ValueError(
                "cv.split and cv.get_n_splits return inconsistent results. "
                f"Expected {self.n_splits_} splits, got {len(splits)}"
            )
        candidates = self._candidates()
        for keys in {tuple(sorted(candidate)) for candidate in candidates}:
            example = next(c for c in candidates if tuple(sorted(c)) == keys)
            clone(self.estimator).set_params(**clone(example, safe=False))  # refuses what is no parameter
        if self.verbose > 0:
            fits = len(candidates) * self.n_splits_
            print(f"Fitting {self.n_splits_} folds for each of {len(candidates)} candidates, totalling {fits} fits")

        fit_params, weight_name = dict(routed.estimator.fit), f"{prefix}sample_weight"
        search = Search(
            self.estimator,
            X,
            y,
            splits,
            self.scoring,
            scorers,
            fit_params.get(weight_name),
            routed.scorer.score.get("sample_weight"),
            self.error_score,
            self.return_train_score,
            self.memory_budget,
        )
        odd = sorted({*fit_params} - {weight_name}) + sorted({*routed.scorer.score} - {"sample_weight"})
        rows = self._evaluate(search, candidates, fit_params, odd)
        results, self.multimetric_ = self._results(candidates, rows)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(rows[0]["test_scores"])
            refit_metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]
        if self.refit:
            self.best_estimator_ = clone(self.estimator).set_params(**clone(self.best_params_, safe=False))
            start = time.time()
            self.best_estimator_.fit(X, y, **fit_params)
            self.refit_time_ = time.time() - start
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
        self.scorer_ = getattr(scorers, "_scorers", scorers)
        self.cv_results_ = results
        return self

    def plot(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """The mean test score over the grid: a curve for one parameter that varies, a heat map for two, parallel
        coordinates for more.

        **Arguments:** `metric`, which score to draw where there are several; `ax`, where to draw.

        **Raises:** `ValueError` for an unknown metric; `NotFittedError` before `fit`.
        """
        return plot_search(self, metric, ax)

    def _candidates(self) -> list[dict[str, Any]]:
        if self.n_iter is None:
            return list(ParameterGrid(self.param_grid))
        return list(ParameterSampler(self.param_grid, self.n_iter, random_state=self.random_state))

    def _evaluate(
        self,
        search: Search,
        candidates: Sequence[Mapping[str, Any]],
        fit_params: Mapping[str, Any],
        odd: Sequence[str],
    ) -> list[Row]:
        """The rows of all candidates on all splits, in that order."""
        reasons = {number: next(iter(odd), one_by_one(self.estimator, p)) for number, p in enumerate(candidates)}
        alone = [number for number, reason in reasons.items() if reason is not None]
        if alone:
            warnings.warn(
                f"{reasons[alone[0]]!r} cannot be handed to networks that are trained together: {len(alone)} of "
                f"{len(candidates)} candidates are trained one by one, which takes longer",
                UserWarning,
                stacklevel=3,
            )
        rows = evaluate(search, {n: p for n, p in enumerate(candidates) if reasons[n] is None})
        for number in alone:
            rows |= evaluate_one_by_one(search, candidates[number], number, fit_params)
        return [rows[number, k] for number in range(len(candidates)) for k in range(len(search.splits))]

    def _results(self, candidates: Sequence[dict[str, Any]], rows: Sequence[Row]) -> tuple[dict[str, Any], bool]:
        """`cv_results_`, and whether there are several scores."""
        good = [row for row in rows if "fit_error" not in row]
        failed = [number for number, row in enumerate(rows) if "fit_error" in row]
        if failed:
            causes = {repr(candidates[n // self.n_splits_]): rows[n]["fit_error"] for n in failed}
            listed = "\n".join(f"{params}: {error}" for params, error in causes.items())
            if not good:
                raise ValueError(f"All the {len(rows)} fits failed; the candidates and their errors:\n{listed}")
            warnings.warn(
                f"{len(failed)} fits failed out of a total of {len(rows)}. The score on these train-test partitions "
                f"for these parameters will be set to {self.error_score}. The candidates and their errors:\n{listed}",
                FitFailedWarning,
                stacklevel=3,
            )
        model = good[0]
        for row in rows:
            for part in ("test_scores", "train_scores"):
                if part in model and part not in row:
                    several = isinstance(model[part], dict)
                    row[part] = dict.fromkeys(model[part], self.error_score) if several else self.error_score
        keys = ("fit_time", "score_time", "test_scores", *(["train_scores"] if self.return_train_score else []))
        with warnings.catch_warnings():
            if failed:  # said above, with the candidates' names
                warnings.filterwarnings("ignore", "One or more of the", UserWarning)
            results = self._format_results(
                candidates, self.n_splits_, [{key: row[key] for key in keys} for row in rows]
            )
        return results, isinstance(model["test_scores"], dict)
