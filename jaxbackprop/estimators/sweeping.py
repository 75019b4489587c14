"""How all searches fit: scikit-learn's contract, all candidates and all folds trained together where that can be."""

import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy import sparse
from sklearn.base import _fit_context, clone, is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils import indexable
from sklearn.utils.validation import _check_method_params, check_is_fitted

from jaxbackprop.estimators.base import BaseBackprop
from jaxbackprop.estimators.callbacks import looks_inside, told_of_candidates
from jaxbackprop.estimators.candidates import final_step, is_ours, lent, one_by_one, redefined, weight_name
from jaxbackprop.estimators.evaluate import Row, Search, evaluate, evaluate_one_by_one
from jaxbackprop.estimators.reuse import Reusable
from jaxbackprop.estimators.samples import positions
from jaxbackprop.estimators.search_ensemble import Archive, SearchEnsemble, ensemble_of
from jaxbackprop.estimators.search_plot import plot_search
from jaxbackprop.sweeps.greedy import BAGS, LIBRARY, ROUNDS


class Sweeping(BaseSearchCV):
    """Stands between a search of scikit-learn, which says what candidates there are, and scikit-learn's `fit`."""

    memory_budget: Any = None
    devices: Any = None
    keep_networks: Any = False
    _archive: Archive | None = None

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Train and score all candidates, then the best one on all samples.

        An estimator that is no network of ours, nor a pipeline that ends in one, is searched as scikit-learn does.

        **Arguments:** `X`, (n_samples, n_features); `y`, the labels or numbers to predict; `params`, `groups` for the
        splitter, and what the estimator's `fit` takes, such as `sample_weight`.

        **Raises:** `ValueError` as scikit-learn does, and if no candidate could be fitted.
        """
        if not self._sweeps():
            return super().fit(X, y, **params)
        scorers, refit_metric = self._get_scorers()
        X, y = indexable(X, y)
        params = _check_method_params(X, params=params)
        routed = self._get_routed_params_for_fit(params)
        self._checked_cv_orig = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        self._check_input_parameters(X=X, y=y, split_params=routed.splitter.split)
        self.n_splits_ = self._checked_cv_orig.get_n_splits(X, y, **routed.splitter.split)
        self._archive = None
        programs: list[Reusable] = []
        if self.keep_networks:
            sample_weight = routed.estimator.fit.get(weight_name(self.estimator))
            self._archive = Archive(y.toarray() if sparse.issparse(y) else np.asarray(y), sample_weight, self.n_splits_)
        tried: list[dict[str, Any]] = []
        rows: list[Row] = []
        more: dict[str, list[Any]] = {}
        results: dict[str, Any] = {}

        def evaluate_candidates(
            candidates: Iterable[dict[str, Any]], cv: Any = None, more_results: Any = None, callback_ctx: Any = None
        ) -> dict[str, Any]:
            nonlocal results
            new = list(candidates)
            splits = list((cv or self._checked_cv_orig).split(X, y, **routed.splitter.split))
            weights = params.get("sample_weight")
            with told_of_candidates(self, callback_ctx, X, y, weights, splits, len(new)) as advance:
                search = self._search(X, y, splits, scorers, routed)._replace(programs=programs if self.refit else None)
                rows.extend(self._evaluate(search, new, routed, advance))
            tried.extend(new)
            for key, values in (more_results or {}).items():
                more.setdefault(key, []).extend(values)
            results, self.multimetric_ = self._results(tried, rows, more)
            return results

        weights = params.get("sample_weight")
        told = {"estimator": self, "X": X, "y": y, "metadata": None if weights is None else {"sample_weight": weights}}
        context = None
        if hasattr(self, "_init_callback_context"):  # from scikit-learn 1.9 on
            context = self._init_callback_context(max_subtasks=1 + (self.refit is not False))
            context.call_on_fit_task_begin(**told)
        if "callback_ctx" in inspect.signature(self._run_search).parameters:
            self._run_search(evaluate_candidates, callback_ctx=context)
        else:
            self._run_search(evaluate_candidates)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(next(row["test_scores"] for row in rows if "fit_error" not in row))
            refit_metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]
        if self.refit:
            self.best_estimator_ = clone(self.estimator).set_params(**clone(self.best_params_, safe=False))
            refit = None if context is None else context.subcontext(task_name="refit-with-best-params")
            with nullcontext() if refit is None else refit.propagate_callback_context(self.best_estimator_):
                if refit is not None:
                    refit.call_on_fit_task_begin(**told)
                start = time.time()
                with lent(self.best_estimator_, programs):
                    self.best_estimator_.fit(X, y, **routed.estimator.fit)
                self.refit_time_ = time.time() - start
            if refit is not None:
                refit.call_on_fit_task_end(**told)
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
        self.scorer_ = getattr(scorers, "_scorers", scorers)
        self.cv_results_ = results
        if context is not None:
            context.call_on_fit_task_end(**told)
        return self

    def plot(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """The mean test score over the grid: a curve for one parameter that varies, a heat map for two, parallel
        coordinates for more.

        **Arguments:** `metric`, which score to draw where there are several; `ax`, where to draw.

        **Raises:** `ValueError` for an unknown metric; `NotFittedError` before `fit`.
        """
        return plot_search(self, metric, ax)

    def ensemble(
        self, *, rounds: int = ROUNDS, bags: int = BAGS, library: int = LIBRARY, seed: int = 0
    ) -> SearchEnsemble:
        """The candidates that predict best together, chosen with replacement on the samples that each fold holds out
        (Caruana et al. 2004), calibrated by one temperature; nothing is trained again. The networks of all folds
        predict, each behind the steps of its fold.

        **Arguments:** `rounds`, how many are chosen in a bag at most; `bags`, of how many choices from random halves of
        the candidates the mean is taken; `library`, how many candidates to choose from, those best alone; `seed`, of
        the bags.

        **Raises:** `NotFittedError` before `fit`; `ValueError` where the networks were not kept.
        """
        check_is_fitted(self, "cv_results_")
        if self._archive is None:
            raise ValueError(
                f"{type(self).__name__} has not kept the networks of its folds; SweepSearchCV(…, keep_networks=True) "
                "keeps them, where networks of ours are trained together"
            )
        return ensemble_of(self._archive, rounds=rounds, bags=bags, library=library, seed=seed)

    def _sweeps(self) -> bool:
        """Whether the engine trains the candidates; if one of our networks is out of its reach, that is said."""
        reason: str | None = f"a network inside a {type(self.estimator).__name__}"
        if is_ours(self.estimator):
            anew = redefined(self.estimator)
            reason = f"a network under a method of a derived class, {anew}," if anew else None
            if looks_inside(self, final_step(self.estimator)[1]):
                reason = "a network with callbacks"
        if reason is None:
            return True
        parts = self.estimator.get_params() if hasattr(self.estimator, "get_params") else {}
        if any(isinstance(part, BaseBackprop) for part in (self.estimator, *parts.values())):
            warnings.warn(
                f"{reason} cannot be trained together with others: the candidates are trained one by one, which takes "
                "longer",
                UserWarning,
                stacklevel=4,
            )
        return False

    def _search(self, X: Any, y: Any, splits: Sequence[Any], scorers: Any, routed: Any) -> Search:
        """What is the same for all candidates."""
        if len(splits) != self.n_splits_:
            raise ValueError(
                "cv.split and cv.get_n_splits return inconsistent results. "
                f"Expected {self.n_splits_} splits, got {len(splits)}"
            )
        return Search(
            self.estimator,
            X,
            y,
            [(positions(train), positions(test)) for train, test in splits],
            self.scoring,
            scorers,
            routed.estimator.fit.get(weight_name(self.estimator)),
            routed.scorer.score.get("sample_weight"),
            self.error_score,
            self.return_train_score,
            self.memory_budget,
            self.devices,
            self.n_jobs,
            self._archive,
        )

    def _evaluate(
        self, search: Search, candidates: Sequence[Mapping[str, Any]], routed: Any, advance: Callable[[float], None]
    ) -> list[Row]:
        """The rows of all candidates on all splits, in that order."""
        if self.verbose > 0:
            fits = len(candidates) * self.n_splits_
            print(f"Fitting {self.n_splits_} folds for each of {len(candidates)} candidates, totalling {fits} fits")
        if not candidates or not search.splits:
            raise ValueError("No fits were performed. Was the CV iterator empty? Were there no candidates?")
        for keys in {tuple(sorted(candidate)) for candidate in candidates}:
            example = next(c for c in candidates if tuple(sorted(c)) == keys)
            clone(self.estimator).set_params(**clone(dict(example), safe=False))  # refuses what is no parameter
        fit_params = dict(routed.estimator.fit)
        odd = sorted({*fit_params} - {weight_name(self.estimator)})
        odd += sorted({*routed.scorer.score} - {"sample_weight"})
        reasons = {n: next(map(repr, odd), one_by_one(self.estimator, p)) for n, p in enumerate(candidates)}
        alone = [number for number, reason in reasons.items() if reason is not None]
        if alone:
            warnings.warn(
                f"{reasons[alone[0]]} cannot be handed to networks that are trained together: {len(alone)} of "
                f"{len(candidates)} candidates are trained one by one, which takes longer",
                UserWarning,
                stacklevel=5,
            )
        together = {n: p for n, p in enumerate(candidates) if reasons[n] is None}
        share = len(together) / len(candidates)
        rows = evaluate(search, together, bar=self.verbose > 0, advance=lambda done: advance(share * done))
        for number in alone:
            rows |= evaluate_one_by_one(search, candidates[number], number, fit_params, routed.scorer.score)
            advance(len({key[0] for key in rows}) / len(candidates))
        return [rows[number, k] for number in range(len(candidates)) for k in range(len(search.splits))]

    def _results(
        self, candidates: Sequence[dict[str, Any]], rows: Sequence[Row], more: Mapping[str, Any]
    ) -> tuple[dict[str, Any], bool]:
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
                stacklevel=5,
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
                candidates, self.n_splits_, [{key: row[key] for key in keys} for row in rows], more
            )
        return results, isinstance(model["test_scores"], dict)
