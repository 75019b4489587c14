"""How the weight of the penalty shapes a decision boundary: three sets of points in the plane, five weights."""

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import make_circles, make_classification, make_moons
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

alphas = np.logspace(-1, 1, 5)
linear, labels = make_classification(
    n_features=2, n_redundant=0, n_informative=2, n_clusters_per_class=1, random_state=0
)
linear += 2 * np.random.RandomState(2).uniform(size=linear.shape)
sets = [make_moons(noise=0.3, random_state=0), make_circles(noise=0.2, factor=0.5, random_state=1), (linear, labels)]

scores = {}
figure, axes = plt.subplots(len(sets), len(alphas), figsize=(17, 9))
for row, (X, y) in enumerate(sets):
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=42)
    grid = np.stack(np.meshgrid(*(np.linspace(X[:, k].min() - 0.5, X[:, k].max() + 0.5, 40) for k in (0, 1))), axis=-1)
    for column, alpha in enumerate(alphas):
        network = MLPClassifier(
            solver="lbfgs",
            alpha=alpha,
            random_state=1,
            max_iter=2000,
            early_stopping=True,
            hidden_layer_sizes=[10, 10],
        )
        model = make_pipeline(StandardScaler(), network).fit(X_train, y_train)
        scores[f"set {row}, alpha {alpha:.2f}"] = model.score(X_test, y_test)
        shown = model.predict_proba(grid.reshape(-1, 2))[:, 1].reshape(grid.shape[:2])
        axes[row, column].contourf(grid[..., 0], grid[..., 1], shown, cmap=plt.cm.RdBu, alpha=0.8)
        axes[row, column].scatter(*X_test.T, c=y_test, cmap=plt.cm.RdBu, edgecolors="k")
        axes[row, column].set_title(f"alpha {alpha:.2f}")
