// The Python module pyjpllm._text: measures of text. The functions are in bind_*.cpp; kernels/text has the work. It is
// a module of its own, so that work on text needs no build of the matrix kernels.
#include "strings.h"

PYBIND11_MODULE(_text, m) {
    m.doc() = "pyjpllm's work on text: one pass over the characters. Text comes as str, without surrogates.";
    bind_language_model(m);
    bind_linear(m);
    bind_lists(m);
    bind_measures(m);
    bind_minhash(m);
    bind_sudachi(m);
}
