"""What the hidden units look at: the first layer's weights, drawn as pictures of digits."""

from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16.0, y, random_state=0, test_size=0.3)
mlp = MLPClassifier(
    hidden_layer_sizes=(40,),
    max_iter=8,
    alpha=1e-4,
    solver="sgd",
    verbose=10,
    random_state=1,
    learning_rate_init=0.2,
)
mlp.fit(X_train, y_train)
print(f"training score {mlp.score(X_train, y_train):f}, test score {mlp.score(X_test, y_test):f}")
scores = {"training": mlp.score(X_train, y_train), "test": mlp.score(X_test, y_test)}

figure, axes = plt.subplots(4, 4)
limits = {"vmin": mlp.coefs_[0].min(), "vmax": mlp.coefs_[0].max()}
for weights, ax in zip(mlp.coefs_[0].T, axes.ravel(), strict=False):
    ax.matshow(weights.reshape(8, 8), cmap=plt.cm.gray, **limits)
    ax.set_xticks(())
    ax.set_yticks(())
