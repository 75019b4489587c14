"""Files of layers, each written as one of the ways in which frameworks are written from scratch; all of them right."""

# The parameters are handed in; dW and db are kept; dx is returned. The loss makes the softmax itself.
HANDED = """
import numpy as np

class Affine:
    def __init__(self, W, b):
        self.W, self.b = W, b
        self.dW = self.db = None
    def forward(self, x):
        self.shape = x.shape
        self.x = x.reshape(len(x), -1)
        return self.x @ self.W + self.b
    def backward(self, dout):
        self.dW = self.x.T @ dout
        self.db = dout.sum(axis=0)
        return (dout @ self.W.T).reshape(self.shape)

class Relu:
    def forward(self, x):
        self.off = x <= 0
        return np.where(self.off, 0, x)
    def backward(self, dout):
        dout[self.off] = 0
        return dout

class BatchNorm:
    def __init__(self, gamma, beta, eps=1e-5):
        self.gamma, self.beta, self.eps = gamma, beta, eps
        self.running_mean = None
    def forward(self, x, train=True):
        mu, var = x.mean(axis=0), x.var(axis=0)
        self.running_mean = mu
        self.s = np.sqrt(var + self.eps)
        self.xhat = (x - mu) / self.s
        return self.gamma * self.xhat + self.beta
    def backward(self, dout):
        self.dgamma, self.dbeta = (dout * self.xhat).sum(axis=0), dout.sum(axis=0)
        d = dout * self.gamma
        return (d - d.mean(axis=0) - self.xhat * (d * self.xhat).mean(axis=0)) / self.s

class Dropout:
    def __init__(self, ratio=0.5):
        self.ratio = ratio
    def forward(self, x, train_flg=True):
        self.mask = np.random.rand(*x.shape) > self.ratio
        return x * self.mask
    def backward(self, dout):
        return dout * self.mask

class SoftmaxWithLoss:
    def forward(self, x, t):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.y = e / e.sum(axis=1, keepdims=True)
        self.t = t
        return -np.sum(t * np.log(self.y)) / len(x)
    def backward(self, dout=1):
        return dout * (self.y - self.t) / len(self.t)
"""

# Sizes are handed in; nothing is returned; the output and all gradients are kept. Losses are an array, one a sample.
KEPT = """
import numpy as np

class Layer_Dense:
    def __init__(self, n_inputs, n_neurons):
        self.weights = 0.01 * np.random.randn(n_inputs, n_neurons)
        self.biases = np.zeros((1, n_neurons))
    def forward(self, inputs, training):
        self.inputs = inputs
        self.output = inputs @ self.weights + self.biases
    def backward(self, dvalues):
        self.dweights = self.inputs.T @ dvalues
        self.dbiases = dvalues.sum(axis=0, keepdims=True)
        self.dinputs = dvalues @ self.weights.T

class Activation_Softmax:
    def forward(self, inputs, training):
        e = np.exp(inputs - inputs.max(axis=1, keepdims=True))
        self.output = e / e.sum(axis=1, keepdims=True)
    def backward(self, dvalues):
        self.dinputs = np.empty_like(dvalues)
        for i, (p, d) in enumerate(zip(self.output, dvalues)):
            self.dinputs[i] = (np.diag(p) - np.outer(p, p)) @ d

class Loss:
    def calculate(self, output, y):
        return np.mean(self.forward(output, y))

class Loss_CategoricalCrossentropy(Loss):
    def forward(self, y_pred, y_true):
        p = np.clip(y_pred, 1e-7, 1 - 1e-7)
        return -np.log(np.sum(p * np.eye(p.shape[1])[y_true], axis=1))
    def backward(self, dvalues, y_true):
        self.dinputs = -np.eye(dvalues.shape[1])[y_true] / dvalues / len(dvalues)

class Softmax_And_Loss:
    def forward(self, inputs, y_true):
        self.softmax, self.loss = Activation_Softmax(), Loss_CategoricalCrossentropy()
        self.softmax.forward(inputs, True)
        self.output = self.softmax.output
        return self.loss.calculate(self.output, y_true)
    def backward(self, dvalues, y_true):
        self.dinputs = dvalues.copy()
        self.dinputs[range(len(dvalues)), y_true] -= 1
        self.dinputs = self.dinputs / len(dvalues)
"""

# One sample in a column; the backward pass takes the step.
STEPS = """
import numpy as np

class Layer:
    def forward(self, input):
        pass
    def backward(self, output_gradient, learning_rate):
        pass

class Dense(Layer):
    def __init__(self, input_size, output_size):
        self.weights = np.random.randn(output_size, input_size)
        self.bias = np.random.randn(output_size, 1)
    def forward(self, input):
        self.input = input
        return np.dot(self.weights, self.input) + self.bias
    def backward(self, output_gradient, learning_rate):
        weights_gradient = np.dot(output_gradient, self.input.T)
        input_gradient = np.dot(self.weights.T, output_gradient)
        self.weights -= learning_rate * weights_gradient
        self.bias -= learning_rate * output_gradient
        return input_gradient

class Activation(Layer):
    def __init__(self, activation, activation_prime):
        self.activation, self.activation_prime = activation, activation_prime
    def forward(self, input):
        self.input = input
        return self.activation(input)
    def backward(self, output_gradient, learning_rate):
        return output_gradient * self.activation_prime(self.input)

class Reshape(Layer):
    def __init__(self, input_shape, output_shape):
        self.input_shape, self.output_shape = input_shape, output_shape
    def forward(self, input):
        return np.reshape(input, self.output_shape)
    def backward(self, output_gradient, learning_rate):
        return np.reshape(output_gradient, self.input_shape)
"""

# Samples in columns, dW and db divided by their number, parameters and gradients in lists; what is kept for the
# backward pass is kept in training alone.
COLUMNS = """
import numpy as np

class LinearLayer:
    def __init__(self, neurons: int, prev_neurons: int):
        self.params = [np.random.rand(neurons, prev_neurons), np.zeros((neurons, 1))]
        self.grads = [np.zeros_like(p) for p in self.params]
    def forward(self, X, training=False):
        if training:
            self.X = X
        return self.params[0].dot(X) + self.params[1]
    def backward(self, dL):
        m = dL.shape[1]
        self.grads[0][...] = dL.dot(self.X.T) / m
        self.grads[1][...] = dL.sum(axis=1, keepdims=True) / m
        return self.params[0].T.dot(dL)

class BinaryCrossEntropy:
    def forward(self, y_hat, y):
        self.y_hat, self.y = y_hat, y
        return -(y * np.log(y_hat) + (1 - y) * np.log(1 - y_hat))
    def backward(self):
        return (1 - self.y) / (1 - self.y_hat) - self.y / self.y_hat
"""

# Two functions a layer, a cache between them, and settings in a dictionary.
PAIRS = """
import numpy as np

def affine_forward(x, w, b):
    return x.reshape(len(x), -1) @ w + b, (x, w, b)

def affine_backward(dout, cache):
    x, w, b = cache
    dx = (dout @ w.T).reshape(x.shape)
    dw = x.reshape(len(x), -1).T @ dout
    db = dout.sum(axis=0)
    return dx, dw, db

def batchnorm_forward(x, gamma, beta, bn_param):
    assert bn_param["mode"] == "train"
    s = np.sqrt(x.var(axis=0) + bn_param.get("eps", 1e-5))
    xhat = (x - x.mean(axis=0)) / s
    return gamma * xhat + beta, (xhat, gamma, s)

def batchnorm_backward(dout, cache):
    xhat, gamma, s = cache
    d = dout * gamma
    dx = (d - d.mean(axis=0) - xhat * (d * xhat).mean(axis=0)) / s
    return dx, np.sum(dout * xhat, axis=0), np.sum(dout, axis=0)

def relu(z):
    return np.maximum(0, z), z

def relu_backward(dA, cache):
    return dA * (cache > 0)

def linear_activation_forward(A_prev, W, b, activation):
    z = W @ A_prev + b
    if activation == "relu":
        a = np.maximum(0, z)
    elif activation == "sigmoid":
        a = 1 / (1 + np.exp(-z))
    return a, (A_prev, W, z)

def linear_activation_backward(dA, cache, activation):
    A_prev, W, z = cache
    s = 1 / (1 + np.exp(-z))
    dZ = dA * (z > 0) if activation == "relu" else dA * s * (1 - s)
    m = A_prev.shape[1]
    dW = dZ @ A_prev.T / m
    db = dZ.sum(axis=1, keepdims=True) / m
    dA_prev = W.T @ dZ
    return dA_prev, dW, db

def conv_forward_naive(x, w, b, conv_param):
    s, p = conv_param["stride"], conv_param["pad"]
    padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    rows, columns = ((n + 2 * p - k) // s + 1 for n, k in zip(x.shape[2:], w.shape[2:]))
    out = np.zeros((len(x), len(w), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, :, i * s : i * s + w.shape[2], j * s : j * s + w.shape[3]]
            out[:, :, i, j] = np.tensordot(window, w, axes=((1, 2, 3), (1, 2, 3))) + b
    return out, (x, w, b, conv_param, padded)

def conv_backward_naive(dout, cache):
    x, w, b, conv_param, padded = cache
    s, p = conv_param["stride"], conv_param["pad"]
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for i in range(dout.shape[2]):
        for j in range(dout.shape[3]):
            at = np.s_[:, :, i * s : i * s + w.shape[2], j * s : j * s + w.shape[3]]
            dw += np.tensordot(dout[:, :, i, j], padded[at], axes=(0, 0))
            dpadded[at] += np.tensordot(dout[:, :, i, j], w, axes=(1, 0))
    dx = dpadded[:, :, p:-p, p:-p]
    return dx, dw, dout.sum(axis=(0, 2, 3))

def softmax_loss(x, y):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(x)), y]).mean()
    dx = p.copy()
    dx[np.arange(len(x)), y] -= 1
    return loss, dx / len(x)
"""

# f and f', which may be handed z or a; a loss and its gradient.
SLOPES = """
import numpy as np

def tanh(x):
    return np.tanh(x)

def tanh_prime(x):
    return 1 - np.tanh(x) ** 2

def sigmoid(z):
    return 1 / (1 + np.exp(-z))

def d_sigmoid(a):
    return a * (1 - a)

def mse(y_true, y_pred):
    return np.mean((y_true - y_pred) ** 2)

def mse_prime(y_true, y_pred):
    return 2 * (y_pred - y_true) / np.size(y_true)

def mae(y_true, y_pred):
    return np.mean(np.abs(y_true - y_pred))

def mae_prime(y_true, y_pred):
    return np.sign(y_pred - y_true) / len(y_true)
"""

# What is right only beside its neighbour.
TOGETHER = """
import numpy as np

class Softmax:
    def forward(self, z):
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    def backward(self, dA):
        return dA

class CrossEntropy:
    def loss(self, y_pred, y):
        return -np.mean(np.sum(y * np.log(y_pred), axis=1))
    def backward(self, y_pred, y):
        return (y_pred - y) / len(y)

class DenseRelu:
    def __init__(self, n_inputs, n_neurons):
        self.W = np.random.randn(n_inputs, n_neurons)
        self.b = np.zeros((1, n_neurons))
        self.learning_rate = 0.01
    def forward(self, X):
        self.X = X
        return np.maximum(0, X @ self.W + self.b)
    def backward(self, dZ):
        dX = dZ @ self.W.T
        self.W -= self.learning_rate * (self.X.T @ dZ)
        self.b -= self.learning_rate * dZ.sum(axis=0, keepdims=True)
        return dX
"""

LAYERS = {"handed": 5, "kept": 4, "steps": 3, "columns": 2, "pairs": 7, "slopes": 4, "together": 3}
FORMS = {
    "handed": HANDED,
    "kept": KEPT,
    "steps": STEPS,
    "columns": COLUMNS,
    "pairs": PAIRS,
    "slopes": SLOPES,
    "together": TOGETHER,
}

# Form, what is replaced by what, the layer that it is in, and what must be wrong there.
MISTAKES = [
    ("handed", "self.dW = self.x.T @ dout", "dW = self.x.T @ dout", "Affine", {"W": None}),
    ("handed", "self.dW = self.x.T @ dout", "self.dW = dout.T @ self.x", "Affine", {"W": "transposed"}),
    ("handed", "self.db = dout.sum(axis=0)", "self.db = dout.mean(axis=0)", "Affine", {"b": "bias_averaged"}),
    ("handed", "self.x @ self.W + self.b", "self.x @ self.W", "Affine", {"b": "unused"}),
    ("handed", "dout[self.off] = 0", "dout[dout <= 0] = 0", "Relu", {"x": ""}),
    ("handed", "d - d.mean(axis=0) - ", "d - ", "BatchNorm", {"x": ""}),
    ("handed", "(dout * self.xhat).sum(axis=0), dout", "dout.sum(axis=0), dout", "BatchNorm", {"gamma": ""}),
    ("handed", "return dout * self.mask", "return dout", "Dropout", {"x": ""}),
    ("handed", "dout * (self.y - self.t)", "dout * (self.t - self.y)", "SoftmaxWithLoss", {"x": "sign"}),
    ("kept", "(np.diag(p) - np.outer(p, p)) @ d", "(p * (1 - p)) * d", "Activation_Softmax", {"x": ""}),
    ("kept", "dvalues @ self.weights.T", "dvalues @ self.weights.T / 2", "Layer_Dense", {"x": ""}),
    ("kept", "-np.eye(dvalues.shape[1])", "np.eye(dvalues.shape[1])", "Loss_CategoricalCrossentropy", {"x": "sign"}),
    ("steps", "self.bias -= ", "self.bias += ", "Dense", {"bias": "sign"}),
    ("steps", "np.dot(self.weights.T, output_gradient)\n", "output_gradient.sum() * self.input\n", "Dense", {"x": ""}),
    ("columns", "dL.dot(self.X.T) / m", "dL.dot(self.X.T)", "LinearLayer", {}),
    ("columns", "- self.y / self.y_hat", "+ self.y / self.y_hat", "BinaryCrossEntropy", {"x": ""}),
    ("pairs", "db = dout.sum(axis=0)\n", "db = dout.sum()\n", "affine_forward", {"b": ""}),
    ("pairs", "dA * (cache > 0)", "dA * cache", "relu", {"x": ""}),
    ("pairs", "dA * s * (1 - s)", "dA * (1 - s)", "linear_activation_forward", {}),
    ("pairs", "dpadded[at] +=", "dpadded[at] =", "conv_forward_naive", {"x": ""}),
    ("pairs", "dx[np.arange(len(x)), y] -= 1\n", "dx[np.arange(len(x)), y] += 1\n", "softmax_loss", {"x": ""}),
    ("slopes", "1 - np.tanh(x) ** 2", "1 - np.tanh(x)", "tanh", {"x": ""}),
    ("slopes", "a * (1 - a)", "a * (1 + a)", "sigmoid", {"x": ""}),
    ("slopes", "/ np.size(y_true)", "/ 7", "mse", {"x": ""}),
    ("slopes", "/ len(y_true)", "* len(y_true)", "mae", {"x": ""}),
    ("together", "return (y_pred - y) / len(y)", "return (y - y_pred) / len(y)", "CrossEntropy", {"x": ""}),
]

# A network out of such layers: its parameters are arrays that two objects hold, in an OrderedDict.
NETWORK = (
    HANDED
    + """
from collections import OrderedDict

class TwoLayerNet:
    def __init__(self, input_size, hidden_size, output_size):
        self.params = {
            "W1": np.random.randn(input_size, hidden_size), "b1": np.zeros(hidden_size),
            "W2": np.random.randn(hidden_size, output_size), "b2": np.zeros(output_size),
        }
        self.layers = OrderedDict()
        self.layers["Affine1"] = Affine(self.params["W1"], self.params["b1"])
        self.layers["Relu1"] = Relu()
        self.layers["Affine2"] = Affine(self.params["W2"], self.params["b2"])
        self.last = SoftmaxWithLoss()
    def loss(self, x, t):
        for layer in self.layers.values():
            x = layer.forward(x)
        return self.last.forward(x, t)
    def gradient(self, x, t):
        self.loss(x, t)
        dout = self.last.backward(1)
        for layer in reversed(list(self.layers.values())):
            dout = layer.backward(dout)
        grads = {}
        grads["W1"], grads["b1"] = self.layers["Affine1"].dW, self.layers["Affine1"].db
        grads["W2"], grads["b2"] = self.layers["Affine2"].dW, self.layers["Affine2"].db
        return grads
"""
)
