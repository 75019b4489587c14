"""Searches with scikit-learn's contracts, all candidates and all folds trained together."""

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.model_selection import GridSearchCV, ParameterSampler, RandomizedSearchCV
from sklearn.model_selection._search_successive_halving import HalvingGridSearchCV
from sklearn.utils._param_validation import Interval

from jaxbackprop.estimators.sweeping import Sweeping


class SweepSearchCV(GridSearchCV, Sweeping):
    """Cross-validated search over the parameters of a network, with the contract of scikit-learn's `GridSearchCV`, or
    with `n_iter` of its `RandomizedSearchCV`.

    Candidates are trained together, on all folds at once, in few compiled programs. They share a program if they
    differ in `hidden_layer_sizes`, `activation`, `alpha`, `learning_rate_init`, `momentum` and, for full batches,
    `random_state`; other parameters take a program each for their values, or at least a run. With
    `solver="lbfgs"` they share a program for each `hidden_layer_sizes` if they differ in `activation`, `alpha`,
    `random_state`, `max_iter`, `max_fun` and `tol`, and each stops at its own time.
    Call `jaxbackprop.use_all_cores()` first to spread the work over all cores.

    **Arguments:**
    - `estimator`: a `BackpropClassifier` or `BackpropRegressor`, or a `Pipeline` that ends in one. The steps before it
      are fitted once a fold, not once a candidate. Any other estimator is searched as `GridSearchCV` does.
    - `param_grid`: a dict of lists, or a list of such dicts; with `n_iter` also scipy's distributions.
    - `scoring`: a scorer's name, a callable, several of them in a list or dict, or None for the estimator's own score.
    - `cv`: a number of folds, a splitter, or pairs of index arrays.
    - `refit`: whether to fit the best candidate on all samples; with several scores the name of the one to choose by,
      or a callable that chooses from `cv_results_`.
    - `error_score`: what a candidate scores that diverges or cannot be fitted, or "raise".
    - `return_train_score`: whether to score the samples trained on, too.
    - `verbose`: whether to say how many networks are trained, and to show a bar.
    - `n_jobs`, `pre_dispatch`: as in `GridSearchCV`, where its own way is gone: for other estimators, and `n_jobs` for
      candidates that cannot be trained together (those that put another network into a pipeline's last step).
    - `n_iter`, `random_state`: how many candidates to draw, and the seed of the draw.
    - `memory_budget`: bytes that the training may take, on all devices together; a search that cannot is refused.
      `devices`: how many of JAX's to use. Both are the estimator's, unless they are given here.
    - `keep_networks`: whether to keep the networks of all candidates and folds, and what they predict for the samples
      held out: `ensemble` is made of them. That is room for so many networks and predictions more.

    What comes out is what `GridSearchCV` over the same estimator gives: every network trains as it would alone, from
    the same start, on the same samples in the same order. Up to rounding, that is: sums are taken in another order.

    **Attributes:** those of `GridSearchCV`. `cv_results_` has its keys; a fit time there is the candidate's share of
    the time that all candidates took together.
    """

    _parameter_constraints: dict = {  # noqa: RUF012  scikit-learn's convention
        **GridSearchCV._parameter_constraints,
        "n_iter": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "memory_budget": [Interval(Integral, 1, None, closed="left"), None],
        "devices": [Interval(Integral, 1, None, closed="left"), None],
        "keep_networks": ["boolean"],
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        scoring: Any = None,
        n_jobs: Any = None,
        refit: Any = True,
        cv: Any = None,
        verbose: Any = 0,
        pre_dispatch: Any = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: Any = False,
        n_iter: Any = None,
        random_state: Any = None,
        memory_budget: Any = None,
        devices: Any = None,
        keep_networks: Any = False,
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.n_iter = n_iter
        self.random_state = random_state
        self.memory_budget = memory_budget
        self.devices = devices
        self.keep_networks = keep_networks

    def _run_search(self, evaluate_candidates: Any, *, callback_ctx: Any = None) -> None:
        if self.n_iter is None:
            own = {} if callback_ctx is None else {"callback_ctx": callback_ctx}
            super()._run_search(evaluate_candidates, **own)
        else:
            drawn = ParameterSampler(self.param_grid, self.n_iter, random_state=self.random_state)
            if callback_ctx is None:
                evaluate_candidates(drawn)
                return
            context = callback_ctx.subcontext(
                task_name="search", max_subtasks=len(drawn) * self.n_splits_, sequential_subtasks=False
            )
            context.call_on_fit_task_begin(estimator=self)
            evaluate_candidates(drawn, callback_ctx=context)
            context.call_on_fit_task_end(estimator=self)


class SweepRandomizedSearchCV(RandomizedSearchCV, Sweeping):
    """`RandomizedSearchCV`'s contract, parameters and attributes, all candidates and all folds trained together; see
    `SweepSearchCV`. How much memory and how many devices they may take is the estimator's to say."""


class SweepHalvingSearchCV(HalvingGridSearchCV, Sweeping):
    """`HalvingGridSearchCV`'s contract, parameters and attributes: each round trains all of its candidates on all folds
    together; see `SweepSearchCV`. With `resource="max_iter"` the candidates grow in epochs instead of samples."""
