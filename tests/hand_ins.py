"""Hand-ins written for the tests: a few styles, each right."""

CS231N = """
import numpy as np

class TwoLayerNet(object):
    def __init__(self, input_size, hidden_size, output_size, std=1e-1):
        self.params = {}
        self.params["W1"] = std * np.random.randn(input_size, hidden_size)
        self.params["b1"] = np.zeros(hidden_size)
        self.params["W2"] = std * np.random.randn(hidden_size, output_size)
        self.params["b2"] = np.zeros(output_size)

    def loss(self, X, y=None, reg=0.0):
        W1, b1, W2, b2 = (self.params[k] for k in ("W1", "b1", "W2", "b2"))
        N = X.shape[0]
        h = np.maximum(0, X.dot(W1) + b1)
        scores = h.dot(W2) + b2
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(N), y]).mean() + 0.5 * reg * (np.sum(W1 * W1) + np.sum(W2 * W2))
        d = p.copy()
        d[np.arange(N), y] -= 1
        d /= N
        dh = d.dot(W2.T)
        dh[h <= 0] = 0
        grads = {"W2": h.T.dot(d) + reg * W2, "b2": d.sum(axis=0)}
        grads["W1"] = X.T.dot(dh) + reg * W1
        grads["b1"] = dh.sum(axis=0)
        return loss, grads
"""

LISTS = """
import numpy as np

class deepNet:
    def __init__(self, layerSizes, actType="sigmoid"):
        self.actType = actType
        self.weights = [np.random.randn(i, o) for i, o in zip(layerSizes[:-1], layerSizes[1:])]
        self.biases = [np.zeros((1, o)) for o in layerSizes[1:]]

    def act(self, z):
        return np.tanh(z) if self.actType == "tanh" else 1 / (1 + np.exp(-z))

    def forwardPass(self, x):
        self.outs = [x]
        for i, (w, b) in enumerate(zip(self.weights, self.biases)):
            z = self.outs[-1] @ w + b
            self.outs.append(self.act(z) if i < len(self.weights) - 1 else self.soft(z))
        return self.outs[-1]

    def soft(self, z):
        e = np.exp(z)
        return e / e.sum(1, keepdims=True)

    def backwardPass(self, x, yOneHot):
        print("backward")
        self.forwardPass(x)
        dWs, dbs = [], []
        delta = (self.outs[-1] - yOneHot) / len(x)
        for i in range(len(self.weights) - 1, -1, -1):
            dWs.insert(0, self.outs[i].T @ delta)
            dbs.insert(0, delta.sum(0, keepdims=True))
            a = self.outs[i]
            slope = 1 - a**2 if self.actType == "tanh" else a * (1 - a)
            delta = delta @ self.weights[i].T * slope
        return dWs, dbs
"""

FUNCTION = """
import numpy as np

def gradient(W1, b1, W2, b2, X, y):
    N, H, C = len(X), W1.shape[1], W2.shape[1]
    a1 = np.tanh(X @ W1 + b1)
    e = np.exp(a1 @ W2 + b2)
    p = e / e.sum(axis=1, keepdims=True)
    dW1, db1, dW2, db2 = np.zeros_like(W1), np.zeros_like(b1), np.zeros_like(W2), np.zeros_like(b2)
    for n in range(N):
        d = p[n].copy()
        d[y[n]] -= 1
        for j in range(H):
            for k in range(C):
                dW2[j, k] += a1[n, j] * d[k] / N
        db2 += d / N
        dz = W2 @ d * (1 - a1[n] ** 2)
        dW1 += np.outer(X[n], dz) / N
        db1 += dz / N
    return dW1, db1, dW2, db2
"""

COURSE = """
import numpy as np
from sklearn import datasets, linear_model
import matplotlib.pyplot as plt

def generate_data():
    np.random.seed(0)
    return datasets.make_moons(200, noise=0.20)

class NeuralNetwork(object):
    def __init__(self, nn_input_dim, nn_hidden_dim, nn_output_dim, actFun_type="tanh", reg_lambda=0.01, seed=0):
        self.nn_input_dim = nn_input_dim
        self.nn_hidden_dim = nn_hidden_dim
        self.nn_output_dim = nn_output_dim
        self.actFun_type = actFun_type
        self.reg_lambda = reg_lambda
        np.random.seed(seed)
        self.W1 = np.random.randn(self.nn_input_dim, self.nn_hidden_dim) / np.sqrt(self.nn_input_dim)
        self.b1 = np.zeros((1, self.nn_hidden_dim))
        self.W2 = np.random.randn(self.nn_hidden_dim, self.nn_output_dim) / np.sqrt(self.nn_hidden_dim)
        self.b2 = np.zeros((1, self.nn_output_dim))

    def actFun(self, z, type):
        if type == "tanh":
            return np.tanh(z)
        elif type == "sigmoid":
            return 1 / (1 + np.exp(-z))
        elif type == "relu":
            return np.maximum(z, 0)

    def diff_actFun(self, z, type):
        if type == "tanh":
            return 1 - np.tanh(z) ** 2
        elif type == "sigmoid":
            s = 1 / (1 + np.exp(-z))
            return s * (1 - s)
        elif type == "relu":
            return np.where(z > 0, 1.0, 0.0)

    def feedforward(self, X, actFun):
        self.z1 = X @ self.W1 + self.b1
        self.a1 = actFun(self.z1)
        self.z2 = self.a1 @ self.W2 + self.b2
        exp_scores = np.exp(self.z2)
        self.probs = exp_scores / np.sum(exp_scores, axis=1, keepdims=True)
        return None

    def calculate_loss(self, X, y):
        num_examples = len(X)
        self.feedforward(X, lambda x: self.actFun(x, type=self.actFun_type))
        data_loss = np.sum(-np.log(self.probs[range(num_examples), y]))
        data_loss += self.reg_lambda / 2 * (np.sum(np.square(self.W1)) + np.sum(np.square(self.W2)))
        return (1.0 / num_examples) * data_loss

    def predict(self, X):
        self.feedforward(X, lambda x: self.actFun(x, type=self.actFun_type))
        return np.argmax(self.probs, axis=1)

    def backprop(self, X, y):
        num_examples = len(X)
        delta3 = self.probs.copy()
        delta3[range(num_examples), y] -= 1
        delta2 = delta3.dot(self.W2.T) * self.diff_actFun(self.z1, self.actFun_type)
        dW2 = self.a1.T.dot(delta3)
        db2 = np.sum(delta3, axis=0, keepdims=True)
        dW1 = X.T.dot(delta2)
        db1 = np.sum(delta2, axis=0)
        return dW1, dW2, db1, db2

    def fit_model(self, X, y, epsilon=0.01, num_passes=20000, print_loss=True):
        for i in range(0, num_passes):
            self.feedforward(X, lambda x: self.actFun(x, type=self.actFun_type))
            dW1, dW2, db1, db2 = self.backprop(X, y)
            dW2 += self.reg_lambda * self.W2
            dW1 += self.reg_lambda * self.W1
            self.W1 += -epsilon * dW1
            self.b1 += -epsilon * db1
            self.W2 += -epsilon * dW2
            self.b2 += -epsilon * db2

def main():
    X, y = generate_data()
    model = NeuralNetwork(nn_input_dim=2, nn_hidden_dim=3, nn_output_dim=2, actFun_type="tanh")
    model.fit_model(X, y)

if __name__ == "__main__":
    main()
"""

DEEP = """
import numpy as np

class Layer:
    def __init__(self, n_in, n_out):
        self.W = np.random.randn(n_in, n_out) / np.sqrt(n_in)
        self.b = np.zeros((1, n_out))

    def feedforward(self, inp):
        self.inp = inp
        self.z = inp @ self.W + self.b
        return self.z

    def backprop(self, dz):
        self.dW = self.inp.T @ dz
        self.db = dz.sum(axis=0, keepdims=True)
        return dz @ self.W.T

class NeuralNetwork:
    def actFun(self, z, type):
        return np.tanh(z) if type == "tanh" else 1 / (1 + np.exp(-z))

    def diff_actFun(self, z, type):
        a = self.actFun(z, type)
        return 1 - a * a if type == "tanh" else a * (1 - a)

class DeepNeuralNetwork(NeuralNetwork):
    def __init__(self, layer_sizes, actFun_type="tanh"):
        self.actFun_type = actFun_type
        self.layers = [Layer(i, o) for i, o in zip(layer_sizes[:-1], layer_sizes[1:])]

    def feedforward(self, X):
        a = X
        for layer in self.layers[:-1]:
            a = self.actFun(layer.feedforward(a), self.actFun_type)
        z = self.layers[-1].feedforward(a)
        e = np.exp(z - z.max(axis=1, keepdims=True))
        self.probs = e / e.sum(axis=1, keepdims=True)
        return self.probs

    def backprop(self, X, y):
        delta = self.probs.copy()
        delta[np.arange(len(X)), y] -= 1
        delta = delta / len(X)
        back = self.layers[-1].backprop(delta)
        for layer in reversed(self.layers[:-1]):
            back = layer.backprop(back * self.diff_actFun(layer.z, self.actFun_type))
"""

MODEL = """
import numpy as np

num_examples = 200
nn_input_dim = 2
nn_output_dim = 2
epsilon = 0.01
reg_lambda = 0.01

def calculate_loss(model):
    W1, b1, W2, b2 = model["W1"], model["b1"], model["W2"], model["b2"]
    a1 = np.tanh(X.dot(W1) + b1)
    exp_scores = np.exp(a1.dot(W2) + b2)
    probs = exp_scores / np.sum(exp_scores, axis=1, keepdims=True)
    data_loss = np.sum(-np.log(probs[range(num_examples), y]))
    data_loss += reg_lambda / 2 * (np.sum(np.square(W1)) + np.sum(np.square(W2)))
    return 1.0 / num_examples * data_loss

def build_model(nn_hdim, num_passes=20000, print_loss=False):
    np.random.seed(0)
    W1 = np.random.randn(nn_input_dim, nn_hdim) / np.sqrt(nn_input_dim)
    b1 = np.zeros((1, nn_hdim))
    W2 = np.random.randn(nn_hdim, nn_output_dim) / np.sqrt(nn_hdim)
    b2 = np.zeros((1, nn_output_dim))
    model = {}
    for i in range(0, num_passes):
        z1 = X.dot(W1) + b1
        a1 = np.tanh(z1)
        z2 = a1.dot(W2) + b2
        exp_scores = np.exp(z2)
        probs = exp_scores / np.sum(exp_scores, axis=1, keepdims=True)
        delta3 = probs
        delta3[range(num_examples), y] -= 1
        dW2 = (a1.T).dot(delta3)
        db2 = np.sum(delta3, axis=0, keepdims=True)
        delta2 = delta3.dot(W2.T) * (1 - np.power(a1, 2))
        dW1 = np.dot(X.T, delta2)
        db1 = np.sum(delta2, axis=0)
        dW2 += reg_lambda * W2
        dW1 += reg_lambda * W1
        W1 += -epsilon * dW1
        b1 += -epsilon * db1
        W2 += -epsilon * dW2
        b2 += -epsilon * db2
        model = {"W1": W1, "b1": b1, "W2": W2, "b2": b2}
        if print_loss and i % 1000 == 0:
            print("Loss after iteration %i: %f" % (i, calculate_loss(model)))
    return model
"""

PAIR = """
import numpy as np

def softmax(Z):
    e = np.exp(Z - Z.max(axis=0, keepdims=True))
    return e / e.sum(axis=0, keepdims=True)

def forward_propagation(X, parameters):
    W1, b1, W2, b2 = parameters["W1"], parameters["b1"], parameters["W2"], parameters["b2"]
    Z1 = np.dot(W1, X) + b1
    A1 = np.tanh(Z1)
    Z2 = np.dot(W2, A1) + b2
    A2 = softmax(Z2)
    cache = {"Z1": Z1, "A1": A1, "Z2": Z2, "A2": A2}
    return A2, cache

def backward_propagation(parameters, cache, X, Y):
    m = X.shape[1]
    W2 = parameters["W2"]
    A1, A2 = cache["A1"], cache["A2"]
    dZ2 = A2 - Y
    dW2 = np.dot(dZ2, A1.T) / m
    db2 = np.sum(dZ2, axis=1, keepdims=True) / m
    dZ1 = np.dot(W2.T, dZ2) * (1 - np.power(A1, 2))
    dW1 = np.dot(dZ1, X.T) / m
    db1 = np.sum(dZ1, axis=1, keepdims=True) / m
    grads = {"dW1": dW1, "db1": db1, "dW2": dW2, "db2": db2}
    return grads
"""

MATRIX = """
import numpy as np

class MatrixNet:
    def __init__(self, inputSize, hiddenSize, outputSize):
        self.W1 = np.matrix(np.random.randn(inputSize, hiddenSize))
        self.b1 = np.matrix(np.zeros((1, hiddenSize)))
        self.W2 = np.matrix(np.random.randn(hiddenSize, outputSize))
        self.b2 = np.matrix(np.zeros((1, outputSize)))

    def forward(self, X):
        self.z1 = np.matrix(X) * self.W1 + self.b1
        self.a1 = 1 / (1 + np.exp(-self.z1))
        e = np.exp(self.a1 * self.W2 + self.b2)
        self.yHat = e / np.sum(e, axis=1)
        return self.yHat

    def backward(self, X, Y):
        delta = self.yHat - Y
        self.dW2 = self.a1.T * delta
        self.db2 = np.sum(delta, axis=0)
        deltaHidden = np.multiply(delta * self.W2.T, np.multiply(self.a1, 1 - self.a1))
        self.dW1 = np.matrix(X).T * deltaHidden
        self.db1 = np.sum(deltaHidden, axis=0)
"""

HARD = """
import numpy as np

class TwoClassNet:
    def __init__(self):
        self.w_hidden = np.random.randn(2, 3)
        self.b_hidden = np.zeros(3)
        self.w_output = np.random.randn(3, 2)
        self.b_output = np.zeros(2)

    def relu(self, x):
        return x * (x > 0)

    def compute_gradients(self, x, labels):
        h = self.relu(x @ self.w_hidden + self.b_hidden)
        scores = h @ self.w_output + self.b_output
        p0 = np.exp(scores[:, 0]) / (np.exp(scores[:, 0]) + np.exp(scores[:, 1]))
        p = np.stack([p0, 1 - p0], axis=1)
        print("probabilities", p[:2])
        t = np.stack([1 - labels, labels], axis=1)
        d_out = (p - t) / len(x)
        d_hid = d_out @ self.w_output.T
        d_hid[h <= 0] = 0
        return {
            "w_hidden": x.T @ d_hid,
            "b_hidden": d_hid.sum(0),
            "w_output": h.T @ d_out,
            "b_output": d_out.sum(0),
        }
"""

# Sizes and labels that are written into the code, as those of MNIST are.
OWN_SIZES = """
import numpy as np

class Digits:
    def __init__(self, m):
        self.m = m
        self.W1, self.b1 = np.random.rand(8, 36) - 0.5, np.random.rand(8, 1) - 0.5
        self.W2, self.b2 = np.random.rand(10, 8) - 0.5, np.random.rand(10, 1) - 0.5

    def one_hot(self, Y):
        y = np.zeros((Y.size, Y.max() + 1))
        y[np.arange(Y.size), Y] = 1
        return y.T

    def forward_prop(self, X):
        Z1 = self.W1 @ X + self.b1
        A1 = np.maximum(Z1, 0)
        Z2 = self.W2 @ A1 + self.b2
        A2 = np.exp(Z2) / sum(np.exp(Z2))
        return Z1, A1, Z2, A2

    def backward_prop(self, Z1, A1, Z2, A2, X, Y):
        dZ2 = A2 - self.one_hot(Y)
        dW2 = 1 / self.m * dZ2 @ A1.T
        db2 = 1 / self.m * dZ2.sum(axis=1, keepdims=True)
        dZ1 = self.W2.T @ dZ2 * (Z1 > 0)
        dW1 = 1 / self.m * dZ1 @ X.T
        db1 = 1 / self.m * dZ1.sum(axis=1, keepdims=True)
        return dW1, db1, dW2, db2
"""

OF_DATA = """
import numpy as np

class Net:
    def __init__(self, X, y, widths=(4,)):
        sizes = [X.shape[0], *widths, y.shape[0]]
        self.p = {}
        for l in range(1, len(sizes)):
            self.p["W" + str(l)] = np.random.randn(sizes[l], sizes[l - 1])
            self.p["b" + str(l)] = np.random.randn(sizes[l], 1)

    def forward(self, X):
        A = {"A0": X, "A1": np.tanh(self.p["W1"] @ X + self.p["b1"])}
        E = np.exp(self.p["W2"] @ A["A1"] + self.p["b2"])
        return {**A, "A2": E / E.sum(axis=0)}

    def backward(self, y, cache):
        m, grads = y.shape[1], {}
        dZ = cache["A2"] - y
        for l in (2, 1):
            grads["dW" + str(l)] = dZ @ cache["A" + str(l - 1)].T / m
            grads["db" + str(l)] = dZ.sum(axis=1, keepdims=True) / m
            dZ = self.p["W" + str(l)].T @ dZ * (1 - cache["A" + str(l - 1)] ** 2)
        return grads
"""

TEN_CLASSES = """
import numpy as np

def init_params(seed=0):
    rng = np.random.default_rng(seed)
    W1, b1 = rng.normal(size=(6, 36)), np.zeros((6, 1))
    W2, b2 = rng.normal(size=(10, 6)), np.zeros((10, 1))
    return W1, b1, W2, b2

def one_hot(Y):
    y = np.zeros((10, Y.size))
    y[Y, np.arange(Y.size)] = 1
    return y

def forward_prop(W1, b1, W2, b2, X):
    A1 = np.tanh(W1 @ X + b1)
    A2 = np.exp(W2 @ A1 + b2)
    A2 /= A2.sum(axis=0)
    return A1, A2

def backward_prop(A1, A2, W2, X, Y):
    dZ2 = A2 - one_hot(Y)
    dZ1 = W2.T @ dZ2 * (1 - A1 ** 2)
    dW2, db2 = dZ2 @ A1.T / Y.size, dZ2.sum(axis=1, keepdims=True) / Y.size
    dW1, db1 = dZ1 @ X.T / Y.size, dZ1.sum(axis=1, keepdims=True) / Y.size
    return dW1, db1, dW2, db2
"""

IN_PLACE = """
import numpy as np

class Perceptron:
    def __init__(self, n_inputs, n_hidden, n_outputs, rate=0.05):
        self.weights1, self.bias1 = np.random.randn(n_inputs, n_hidden), np.zeros((1, n_hidden))
        self.weights2, self.bias2 = np.random.randn(n_hidden, n_outputs), np.zeros((1, n_outputs))
        self.learning_rate = rate

    def forward(self, X):
        self.hidden = np.tanh(X @ self.weights1 + self.bias1)
        z = self.hidden @ self.weights2 + self.bias2
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def backward(self, X, y, output):
        d_out = (output - y) / len(X)
        d_hidden = d_out @ self.weights2.T * (1 - self.hidden ** 2)
        self.weights2 -= self.learning_rate * self.hidden.T @ d_out
        self.bias2 -= self.learning_rate * d_out.sum(axis=0, keepdims=True)
        self.weights1 -= self.learning_rate * X.T @ d_hidden
        self.bias1 -= self.learning_rate * d_hidden.sum(axis=0, keepdims=True)
"""

FROM_A1 = """
import numpy as np

class Net:
    def __init__(self, input_size, hidden_size, output_size):
        self.W1, self.b1 = np.random.randn(input_size, hidden_size), np.zeros((1, hidden_size))
        self.W2, self.b2 = np.random.randn(hidden_size, output_size), np.zeros((1, output_size))

    def forward(self, X):
        self.a1 = X
        self.z2 = self.a1 @ self.W1 + self.b1
        self.a2 = np.tanh(self.z2)
        self.z3 = self.a2 @ self.W2 + self.b2
        e = np.exp(self.z3 - self.z3.max(axis=1, keepdims=True))
        self.a3 = e / e.sum(axis=1, keepdims=True)
        return self.a3

    def backward(self, X, y):
        d3 = self.a3.copy()
        d3[np.arange(len(y)), y] -= 1
        d3 /= len(X)
        d2 = d3 @ self.W2.T * (1 - self.a2 ** 2)
        return self.a1.T @ d2, d2.sum(axis=0, keepdims=True), self.a2.T @ d3, d3.sum(axis=0, keepdims=True)
"""

SIGMOIDS = """
import numpy as np

def sigmoid(z):
    return 1 / (1 + np.exp(-z))

class XorNet:
    def __init__(self, n_in=2, n_hid=4, n_out=1, lr=0.5):
        self.W1, self.b1 = np.random.randn(n_in, n_hid), np.zeros(n_hid)
        self.W2, self.b2 = np.random.randn(n_hid, n_out), np.zeros(n_out)
        self.vW1, self.vW2 = np.zeros_like(self.W1), np.zeros_like(self.W2)
        self.lr = lr

    def forward(self, X):
        self.a1 = sigmoid(X @ self.W1 + self.b1)
        self.a2 = sigmoid(self.a1 @ self.W2 + self.b2)
        return self.a2

    def loss(self, y_true, y_pred):
        return np.mean((y_true - y_pred) ** 2)

    def train(self, X, y, epochs=1000, momentum=0.9):
        for _ in range(epochs):
            a2 = self.forward(X)
            d2 = (a2 - y) * a2 * (1 - a2)
            d1 = d2 @ self.W2.T * self.a1 * (1 - self.a1)
            self.vW2 = momentum * self.vW2 + self.a1.T @ d2
            self.vW1 = momentum * self.vW1 + X.T @ d1
            self.W2 -= self.lr * self.vW2
            self.b2 -= self.lr * d2.sum(axis=0)
            self.W1 -= self.lr * self.vW1
            self.b1 -= self.lr * d1.sum(axis=0)
"""
