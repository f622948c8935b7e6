/* Softmax attention. Included by jpllm_kernels.h, which has the types and the rules.
 *
 * Letters: B batch, S queries, T keys, H query heads, K key/value heads, D width of a head. */
#ifndef JPLLM_ATTENTION_H
#define JPLLM_ATTENTION_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct jpllm_attention_shape {
    int64_t batch, queries, keys, heads, kv_heads, dim; /* H a multiple of K, 1 <= D <= 256, S <= T < 2^24 */
    double scale;                                       /* of the scores, before the softmax */
    int causal;                                         /* a query sees no key after its own position */
    int64_t window;                                     /* ... and none this far away or farther; 0: no window */
    /* Documents [B,S] and [B,T], contiguous: a query sees keys of its own number only. Both NULL: one document. */
    const int64_t *query_ids, *key_ids;
} jpllm_attention_shape;

/* A tensor [B,S,H,D] or [B,T,K,D]; the elements of a head lie side by side. */
typedef struct jpllm_heads {
    void* data;
    int64_t batch_stride, row_stride, head_stride;
} jpllm_heads;

/* out = softmax(scale q k^T) v, where the queries are the last S of the T positions; sums are FP32 for every dtype.
 * A query that sees no key gives zeroes. lse[B,H,S] (FP32) receives the log-sum-exp of each query's scores. A NaN or
 * an infinity in a key or value makes the queries that see it NaN, and maybe others of the same head and batch.
 * On avx512bf16 the probabilities of BF16, and their gradients, are rounded to it before their products with v, dout, q
 * and k: 2^-8 of the sum of the absolute terms at most. */
jpllm_status jpllm_attention(jpllm_dtype dtype, const jpllm_attention_shape* shape, jpllm_heads q, jpllm_heads k,
                             jpllm_heads v, jpllm_heads out, float* lse, int threads);

/* The gradients of q, k and v from that of out; out and lse are what jpllm_attention gave. */
jpllm_status jpllm_attention_backward(jpllm_dtype dtype, const jpllm_attention_shape* shape, jpllm_heads q,
                                      jpllm_heads k, jpllm_heads v, jpllm_heads out, const float* lse, jpllm_heads dout,
                                      jpllm_heads dq, jpllm_heads dk, jpllm_heads dv, int threads);

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_ATTENTION_H */
