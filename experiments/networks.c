// The work of peers.py in C: K networks x -> tanh -> softmax, each trained for itself by full-batch gradient descent on
// the mean cross-entropy plus l2/2 * sum(W^2). It says how fast the same arithmetic is when it is written by hand for
// one purpose; peers.py compiles it, checks its losses against this project's, and then times it:
//
//   gcc -Ofast -march=native -fopenmp -DUNITS=3 networks.c -o networks -lm && ./networks NETWORKS STEPS
//
// Names and equation numbers are the document's. An array is features first, [features][samples]: every inner loop runs
// over samples that lie one after another, which is what the vector units want. One network at a time lives in the
// innermost cache; the networks are divided among the threads.

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef UNITS
#define UNITS 3 // hidden units, known when it is compiled, so that loops over them can be unrolled
#endif
enum { SAMPLES = 200, FEATURES = 2, CLASSES = 2, ROUNDS = 3 };

#define ALIGNED __attribute__((aligned(64)))
static const float L2 = 1e-4f;

typedef struct {
  float x[FEATURES][SAMPLES];
  float y[CLASSES][SAMPLES]; // one-hot
} Data;

typedef struct {
  float W1[UNITS][FEATURES], b1[UNITS], W2[CLASSES][UNITS], b2[CLASSES];
} Params;

static Data data ALIGNED;

// Two interleaved half moons: the classes take turns, so that sample n and n + 1 lie on different moons.
static void make_data(void) {
  for (int n = 0; n < SAMPLES; n++) {
    const int label = n % 2;
    const double t = M_PI * n / (SAMPLES - 1);
    data.x[0][n] = label ? 1 - cos(t) : cos(t);
    data.x[1][n] = label ? 0.5 - sin(t) : sin(t);
    data.y[0][n] = 1 - label;
    data.y[1][n] = label;
  }
}

// The start of network k: a closed formula, so that a program in any language has the same.
static Params start_of(int k) {
  Params p = {0};
  for (int h = 0; h < UNITS; h++) {
    for (int f = 0; f < FEATURES; f++)
      p.W1[h][f] = sin(1.0 + 7.0 * k + 3.0 * h + f);
    for (int c = 0; c < CLASSES; c++)
      p.W2[c][h] = cos(2.0 + 5.0 * k + 2.0 * h + c);
  }
  return p;
}

// (1) to (3): a1 = tanh(W1 x + b1), z2 = W2 a1 + b2.
static inline void forward(const Params *p, float a1[UNITS][SAMPLES], float z2[CLASSES][SAMPLES]) {
  for (int h = 0; h < UNITS; h++)
    for (int n = 0; n < SAMPLES; n++)
      a1[h][n] = tanhf(p->W1[h][0] * data.x[0][n] + p->W1[h][1] * data.x[1][n] + p->b1[h]);
  for (int c = 0; c < CLASSES; c++) {
    for (int n = 0; n < SAMPLES; n++)
      z2[c][n] = p->b2[c];
    for (int h = 0; h < UNITS; h++)
      for (int n = 0; n < SAMPLES; n++)
        z2[c][n] += p->W2[c][h] * a1[h][n];
  }
}

// (4), and dL/dz2 = (y-hat - y) / N in its place.
static inline void output_error(float z2[CLASSES][SAMPLES]) {
  const float share = 1.0f / SAMPLES;
  for (int n = 0; n < SAMPLES; n++) {
    const float most = z2[0][n] > z2[1][n] ? z2[0][n] : z2[1][n];
    const float e0 = expf(z2[0][n] - most), e1 = expf(z2[1][n] - most), scale = 1.0f / (e0 + e1);
    z2[0][n] = (e0 * scale - data.y[0][n]) * share;
    z2[1][n] = (e1 * scale - data.y[1][n]) * share;
  }
}

// One step down the gradient. The hidden errors are made from W2 as it was before the step.
static inline void step(Params *p, float rate, float a1[UNITS][SAMPLES], float dz2[CLASSES][SAMPLES]) {
  float dW2[CLASSES][UNITS], db2[CLASSES];
  for (int c = 0; c < CLASSES; c++) {
    float total = 0;
    for (int n = 0; n < SAMPLES; n++)
      total += dz2[c][n];
    db2[c] = total;
    for (int h = 0; h < UNITS; h++) {
      float product = 0;
      for (int n = 0; n < SAMPLES; n++)
        product += dz2[c][n] * a1[h][n];
      dW2[c][h] = product + L2 * p->W2[c][h];
    }
  }
  for (int h = 0; h < UNITS; h++) {
    float dW_0 = 0, dW_1 = 0, db = 0;
    for (int n = 0; n < SAMPLES; n++) {
      const float a = a1[h][n];
      const float dz1 = (p->W2[0][h] * dz2[0][n] + p->W2[1][h] * dz2[1][n]) * (1 - a * a);
      dW_0 += dz1 * data.x[0][n];
      dW_1 += dz1 * data.x[1][n];
      db += dz1;
    }
    p->W1[h][0] -= rate * (dW_0 + L2 * p->W1[h][0]);
    p->W1[h][1] -= rate * (dW_1 + L2 * p->W1[h][1]);
    p->b1[h] -= rate * db;
  }
  for (int c = 0; c < CLASSES; c++) {
    p->b2[c] -= rate * db2[c];
    for (int h = 0; h < UNITS; h++)
      p->W2[c][h] -= rate * dW2[c][h];
  }
}

// (5) with its l2 term, in double precision.
static double loss_of(const Params *p, float z2[CLASSES][SAMPLES]) {
  double loss = 0;
  for (int n = 0; n < SAMPLES; n++) {
    const double most = fmax(z2[0][n], z2[1][n]);
    const double all = most + log(exp(z2[0][n] - most) + exp(z2[1][n] - most));
    loss += (all - (data.y[0][n] * z2[0][n] + data.y[1][n] * z2[1][n])) / SAMPLES;
  }
  for (int h = 0; h < UNITS; h++)
    for (int i = 0; i < 2; i++)
      loss += 0.5 * L2 * (p->W1[h][i] * p->W1[h][i] + p->W2[i][h] * p->W2[i][h]);
  return loss;
}

// Network k of K, trained; the loss after its last step.
static double train(int k, int networks, int steps) {
  const float rate = 0.05f + 0.45f * k / networks;
  Params p = start_of(k);
  float a1[UNITS][SAMPLES] ALIGNED, z2[CLASSES][SAMPLES] ALIGNED;
  for (int i = 0; i < steps; i++) {
    forward(&p, a1, z2);
    output_error(z2);
    step(&p, rate, a1, z2);
  }
  forward(&p, a1, z2);
  return loss_of(&p, z2);
}

int main(int count, char **words) {
  const int networks = count > 1 ? atoi(words[1]) : 512, steps = count > 2 ? atoi(words[2]) : 2000;
  make_data();
  double seconds = INFINITY, mean = 0;
  for (int round = 0; round < ROUNDS; round++) {
    double sum = 0;
    const double start = omp_get_wtime();
#pragma omp parallel for schedule(static) reduction(+ : sum)
    for (int k = 0; k < networks; k++)
      sum += train(k, networks, steps);
    seconds = fmin(seconds, omp_get_wtime() - start);
    mean = sum / networks;
  }
  printf("{\"threads\": %d, \"seconds\": %.6f, \"mean_final_loss\": %.9f}\n", omp_get_max_threads(), seconds, mean);
}
