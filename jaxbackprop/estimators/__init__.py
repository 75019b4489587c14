"""scikit-learn's interface over the grid engine."""

from jaxbackprop.estimators.classifier import BackpropClassifier as BackpropClassifier
from jaxbackprop.estimators.regressor import BackpropRegressor as BackpropRegressor
