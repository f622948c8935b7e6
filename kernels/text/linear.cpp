// A linear model over hashed character n-grams.
#include "text/linear.h"

#include <algorithm>
#include <cmath>

#include "text/rolling.h"

namespace jpllm::text {
namespace {

// Where AdaGrad's sums begin: (1/1000)^2, the square of the greatest gradient of an n-gram in a text of a thousand. So
// an n-gram that was seen once does not move by the whole rate.
constexpr double kInitial = 1e-6;

template <class T>
void descend(T& value, T& square, double gradient, double rate) {
    const double sum = static_cast<double>(square) + gradient * gradient;
    square = static_cast<T>(sum);
    value = static_cast<T>(static_cast<double>(value) - rate * gradient / std::sqrt(sum + kInitial));
}

// Turns scores into probabilities less the label's one, which are the loss's gradients; the loss.
double differences(std::vector<double>& scores, std::size_t label) {
    if (scores.size() == 1) {
        const double z = label == 1 ? -scores[0] : scores[0], small = std::exp(-std::fabs(z));
        const double wrong = (z >= 0 ? 1 : small) / (1 + small);  // the probability of the other label
        scores[0] = label == 1 ? -wrong : wrong;
        return std::max(z, 0.) + std::log1p(small);
    }
    const double greatest = *std::max_element(scores.begin(), scores.end()), own = scores[label] - greatest;
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - greatest);
    for (double& score : scores) score /= sum;
    scores[label] -= 1;
    return std::log(sum) - own;
}

}  // namespace

void buckets(Codes text, std::size_t most, unsigned bits, std::vector<std::uint32_t>& out) {
    out.clear();
    const unsigned shift = 64 - bits;
    for (std::size_t i = 0; i < text.size; ++i) {
        const std::size_t longest = std::min(most, text.size - i);
        std::uint64_t h = 0;
        for (std::size_t n = 0; n < longest; ++n) {
            h = h * kGramFactor + text[i + n] + 1;
            out.push_back(static_cast<std::uint32_t>(mix(h) >> shift));
        }
    }
}

void linear_scores(const std::vector<std::uint32_t>& grams, const float* weights, const double* bias,
                   std::size_t outputs, double* scores) {
    const double count = grams.empty() ? 1. : static_cast<double>(grams.size());
    if (outputs == 1) {
        double sum = 0;
        for (const std::uint32_t gram : grams) sum += static_cast<double>(weights[gram]);
        scores[0] = bias[0] + sum / count;
        return;
    }
    std::fill_n(scores, outputs, 0.);
    for (const std::uint32_t gram : grams) {
        const float* const row = weights + std::size_t{gram} * outputs;
        for (std::size_t o = 0; o < outputs; ++o) scores[o] += static_cast<double>(row[o]);
    }
    for (std::size_t o = 0; o < outputs; ++o) scores[o] = bias[o] + scores[o] / count;
}

double linear_step(const std::vector<std::uint32_t>& grams, std::size_t label, double rate, const Linear& model,
                   std::vector<double>& scores) {
    scores.resize(model.outputs);
    linear_scores(grams, model.weights, model.bias, model.outputs, scores.data());
    const double loss = differences(scores, label);
    for (std::size_t o = 0; o < model.outputs; ++o) descend(model.bias[o], model.bias_squares[o], scores[o], rate);
    const double share = grams.empty() ? 0. : 1. / static_cast<double>(grams.size());
    for (double& score : scores) score *= share;
    for (const std::uint32_t gram : grams) {
        const std::size_t row = std::size_t{gram} * model.outputs;
        for (std::size_t o = 0; o < model.outputs; ++o) {
            descend(model.weights[row + o], model.squares[row + o], scores[o], rate);
        }
    }
    return loss;
}

}  // namespace jpllm::text
