"""Hand-ins written for the tests: a few styles, each right, and with mistakes put in one at a time."""

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

# Source, what is replaced by what, whether it is right, and the codes that may be named.
HAND_INS = [
    (CS231N, "", "", True, ()),
    (CS231N, "d /= N", "pass", True, ()),
    (CS231N, "np.maximum(0, X.dot(W1) + b1)", "np.maximum(X.dot(np.asmatrix(W1)).A + b1, 0)", True, ()),
    (CS231N, "dh[h <= 0] = 0", "pass", False, ("slope_missing", "slope_mask_ones", "mask_always_one")),
    (CS231N, "dh[h <= 0] = 0", "dh[dh <= 0] = 0", False, ()),
    (CS231N, "d[np.arange(N), y] -= 1", "pass", False, ("delta_without_y",)),
    (CS231N, "d.sum(axis=0)}", "d.mean(axis=0)}", False, ("mean_twice",)),
    (CS231N, 'grads["b1"] = dh.sum(axis=0)', 'grads["b1"] = -dh.sum(axis=0)', False, ("sign",)),
    (LISTS, "", "", True, ()),
    (LISTS, "/ len(x)", "", True, ()),
    (LISTS, "return dWs, dbs", "return dbs, dWs", True, ()),
    (LISTS, "1 - a**2", "1 - a", False, ("tanh_slope_not_squared", "slope_is_1_minus_a")),
    (LISTS, "a * (1 - a)", "a", False, ("sigmoid_slope_unfinished", "slope_is_a")),
    (LISTS, "a * (1 - a)", "1", False, ("slope_missing",)),
    (LISTS, "(self.outs[-1] - yOneHot)", "(yOneHot - self.outs[-1])", False, ("delta_sign", "sign")),
    (FUNCTION, "", "", True, ()),
    (FUNCTION, "(1 - a1[n] ** 2)", "(1 - a1[n])", False, ("tanh_slope_not_squared", "slope_is_1_minus_a")),
    (FUNCTION, "* (1 - a1[n] ** 2)", "", False, ("slope_missing",)),
    (FUNCTION, "db1 += dz / N", "db1 += dz", False, ("sum_not_mean",)),
    (FUNCTION, "d[y[n]] -= 1", "pass", False, ("delta_without_y",)),
    (FUNCTION, "db2 += d / N", "db2 = d / N", False, ("few_samples",)),
    (CS231N, "d /= N", "d = d / N / N", False, ("mean_twice",)),
    (CS231N, "X.T.dot(dh) + reg * W1", "-X.T.dot(dh) + reg * W1", False, ("sign",)),
    (CS231N, "h.T.dot(d) + reg", "np.maximum(h - 1, 0).T.dot(d) + reg", False, ()),
    (CS231N, "p = np.exp(scores - scores.max(axis=1, keepdims=True))", "p = np.exp(scores)", True, ()),
    (CS231N, "d.sum(axis=0)}", "d.sum(axis=0, keepdims=True)}", True, ()),
    (CS231N, "dh.sum(axis=0)", "2 * dh.sum(axis=0)", False, ("double",)),
    (LISTS, "delta.sum(0, keepdims=True)", "delta.sum(0)", True, ()),
    (LISTS, "actType", "activation_type", True, ()),
    (LISTS, "1 - a**2", "1 + a**2", False, ("tanh_slope_sign",)),
    (LISTS, "a * (1 - a)", "a * (1 + a)", False, ("sigmoid_slope_sign",)),
    (LISTS, "/ len(x)", "/ len(x) ** 2", False, ("mean_twice",)),
    (FUNCTION, "(1 - a1[n] ** 2)", "(1 + a1[n] ** 2)", False, ("tanh_slope_sign",)),
    (FUNCTION, "dW1 += np.outer(X[n], dz) / N", "dW1 -= np.outer(X[n], dz) / N", False, ("sign",)),
    (FUNCTION, "/ N", "", True, ()),
]
