// A linear model over the hashed character n-grams of a text: scores, and training by AdaGrad.
//
// Every n-gram of 1 to `most` characters falls into one of 2^bits buckets: the upper bits of its polynomial hash, mixed
// (rolling.h; that of gram_hashes for the same n). An output's score is its bias and the mean of the weights of all
// n-grams, by occurrence, as fastText has it (Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification"),
// without a layer between. One output is logistic for two labels; several are a softmax.
//
// Sums are in FP64 and in the order of the text, so that a score is the same bits on any machine.
#pragma once
#include <cstdint>
#include <vector>

#include "text/codes.h"

namespace jpllm::text {

// The bucket of every n-gram: for each place from left to right, the lengths from 1 to `most` that fit. bits: 1 to 32.
void buckets(Codes text, std::size_t most, unsigned bits, std::vector<std::uint32_t>& out);

// scores[o] = bias[o] + the mean over `grams` of weights[gram * outputs + o]; the bias where there is no n-gram.
void linear_scores(const std::vector<std::uint32_t>& grams, const float* weights, const double* bias,
                   std::size_t outputs, double* scores);

// What training changes: weights and bias, and AdaGrad's sums of squared gradients for each of them.
struct Linear {
    float* weights;
    float* squares;
    double* bias;
    double* bias_squares;
    std::size_t outputs;
};

// One step on one document of the given label; its loss before the step, in nats. AdaGrad (Duchi, Hazan, Singer 2011)
// with a step an occurrence of an n-gram. `scores` is work space.
double linear_step(const std::vector<std::uint32_t>& grams, std::size_t label, double rate, const Linear& model,
                   std::vector<double>& scores);

}  // namespace jpllm::text
