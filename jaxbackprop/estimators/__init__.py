"""scikit-learn's interface over the grid engine."""

from jaxbackprop.estimators.ask_and_tell import optimize_in_batches as optimize_in_batches
from jaxbackprop.estimators.classifier import BackpropClassifier as BackpropClassifier
from jaxbackprop.estimators.ensemble import SweepEnsembleClassifier as SweepEnsembleClassifier
from jaxbackprop.estimators.ensemble import SweepEnsembleRegressor as SweepEnsembleRegressor
from jaxbackprop.estimators.model_file import load as load
from jaxbackprop.estimators.model_file import save as save
from jaxbackprop.estimators.regressor import BackpropRegressor as BackpropRegressor
from jaxbackprop.estimators.search import SweepHalvingSearchCV as SweepHalvingSearchCV
from jaxbackprop.estimators.search import SweepRandomizedSearchCV as SweepRandomizedSearchCV
from jaxbackprop.estimators.search import SweepSearchCV as SweepSearchCV
