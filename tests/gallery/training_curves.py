"""Loss curves of gradient descent with several learning rates and momenta, and of adam, on small data sets."""

from matplotlib import pyplot as plt
from sklearn import datasets
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import MinMaxScaler

gradient_descent = {"solver": "sgd", "learning_rate_init": 0.2}
settings = {
    "constant": {**gradient_descent, "learning_rate": "constant", "momentum": 0},
    "constant, momentum": {**gradient_descent, "momentum": 0.9, "nesterovs_momentum": False},
    "constant, Nesterov": {**gradient_descent, "momentum": 0.9, "nesterovs_momentum": True},
    "falling": {**gradient_descent, "learning_rate": "invscaling", "momentum": 0},
    "falling, momentum": {**gradient_descent, "learning_rate": "invscaling", "nesterovs_momentum": False},
    "falling, Nesterov": {**gradient_descent, "learning_rate": "invscaling", "momentum": 0.9},
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
}
sets = {
    "iris": datasets.load_iris(return_X_y=True),
    "digits": datasets.load_digits(return_X_y=True),
    "circles": datasets.make_circles(noise=0.2, factor=0.5, random_state=1),
    "moons": datasets.make_moons(noise=0.3, random_state=0),
}

scores, losses = {}, {}
figure, axes = plt.subplots(2, 2, figsize=(15, 10))
for ax, (name, (X, y)) in zip(axes.ravel(), sets.items(), strict=True):
    X = MinMaxScaler().fit_transform(X)
    for label, own in settings.items():
        mlp = MLPClassifier(random_state=0, max_iter=15 if name == "digits" else 400, **own)
        mlp.fit(X, y)
        print(f"{name}, {label}: score {mlp.score(X, y):f}, loss {mlp.loss_:f}")
        scores[f"{name}, {label}"], losses[f"{name}, {label}"] = mlp.score(X, y), mlp.loss_
        ax.plot(mlp.loss_curve_, label=label)
    ax.set_title(name)
figure.legend(*ax.get_legend_handles_labels(), ncol=4, loc="upper center")
