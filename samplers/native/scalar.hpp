// One chain for each thread: to CUDA devices what runtime.hpp is to processors with vectors.
//
// The printed programs are the same, and here LANES is 1: F, D, I and U are single numbers, and the device's own
// functions compute exponentials and the like. NVRTC compiles this with --fmad=false and without --use_fast_math, for
// the reasons that are given in runtime.hpp. A C++ compiler takes it as well, for a processor, so that it can be tested
// where there is no device.

#ifdef __CUDACC_RTC__
typedef unsigned char uint8_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
#define MEMBER __device__
#define INLINE static __device__ __forceinline__
#define ENTRY static __device__
#define INFINITE __longlong_as_double(0x7ff0000000000000)
#define UNDEFINED __longlong_as_double(0x7ff8000000000000)
#else
#include <cmath>
#include <cstdint>
#define MEMBER
#define INLINE static inline
#define ENTRY extern "C"
#define INFINITE __builtin_inf()
#define UNDEFINED __builtin_nan("")
#endif

#define LANES 1

namespace chains {  // so that the names below hide those of the compiler's own; the program ends it

// ---------------------------------------------------------------------------------------------------------- 1. types

typedef float F;
typedef double D;
typedef int32_t I;
typedef uint32_t U;

struct B {  // not a bool, whose ~ is an integer
    bool v;
    MEMBER B(bool value) : v(value) {}
};
INLINE B operator~(B x) { return !x.v; }
INLINE B operator&(B x, B y) { return x.v && y.v; }
INLINE B operator|(B x, B y) { return x.v || y.v; }
INLINE B operator==(B x, B y) { return x.v == y.v; }
INLINE B operator!=(B x, B y) { return x.v != y.v; }

template <class V, class T> INLINE V full(T value) { return V(value); }
template <class V, class M> INLINE V load(const M* from, int64_t) { return V(*from); }
template <class M, class V> INLINE void store(M* to, V value, int64_t) { *to = M(value); }
INLINE void store(uint8_t* to, B value, int64_t) { *to = value.v; }
template <class T> INLINE void swap(T*& one, T*& other) {
    T* kept = one;
    one = other, other = kept;
}

template <class T> INLINE F to_f(T x) { return F(x); }
template <class T> INLINE D to_d(T x) { return D(x); }
template <class T> INLINE I to_i(T x) { return I(x); }
template <class T> INLINE B to_b(T x) { return x != T(0); }
INLINE F to_f(B x) { return F(x.v); }
INLINE D to_d(B x) { return D(x.v); }
INLINE I to_i(B x) { return I(x.v); }
INLINE B to_b(B x) { return x; }

INLINE I lane_numbers(int64_t) { return 0; }
INLINE U as_words(I x) { return U(x); }
INLINE bool any(B mask) { return mask.v; }
template <class T> INLINE T select(B mask, T x, T y) { return mask.v ? x : y; }

// ------------------------------------------------------------------------------------------------------- 2. functions

template <class T> INLINE T maximum(T x, T y) { return x != x ? x : y != y ? y : x < y ? y : x; }
template <class T> INLINE T minimum(T x, T y) { return x != x ? x : y != y ? y : y < x ? y : x; }
INLINE I absolute(I x) { return x < 0 ? -x : x; }

#define OF_FLOATS(name, single, double_)     \
    INLINE F name(F x) { return single(x); } \
    INLINE D name(D x) { return double_(x); }
OF_FLOATS(absolute, ::fabsf, ::fabs)
OF_FLOATS(square_root, ::sqrtf, ::sqrt)
OF_FLOATS(exp_, ::expf, ::exp)
OF_FLOATS(log_, ::logf, ::log)
OF_FLOATS(log1p_, ::log1pf, ::log1p)
OF_FLOATS(expm1_, ::expm1f, ::expm1)
OF_FLOATS(sin_, ::sinf, ::sin)
OF_FLOATS(cos_, ::cosf, ::cos)
OF_FLOATS(tanh_, ::tanhf, ::tanh)
OF_FLOATS(erf_, ::erff, ::erf)
OF_FLOATS(floor_, ::floorf, ::floor)
OF_FLOATS(ceil_, ::ceilf, ::ceil)
OF_FLOATS(round_, ::rintf, ::rint)
OF_FLOATS(trunc_, ::truncf, ::trunc)
#undef OF_FLOATS

INLINE F fma(F a, F b, F c) { return ::fmaf(a, b, c); }
INLINE D fma(D a, D b, D c) { return ::fma(a, b, c); }
INLINE F pow_(F x, F y) { return ::powf(x, y); }
INLINE D pow_(D x, D y) { return ::pow(x, y); }
template <class T> INLINE B is_finite(T x) { return absolute(x) < T(INFINITE); }
template <class T> INLINE T sigmoid_(T x) { return T(1) / (T(1) + exp_(-x)); }

// -------------------------------------------------------------------------------------------------- 3. random numbers
//
// Words are those of runtime.hpp, bit by bit, and so are uniforms; normals agree up to rounding.

INLINE void threefry(U k0, U k1, U& x, U& y) {
    const int rotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
    const U keys[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
    x += k0;
    y += k1;
#pragma unroll
    for (int i = 0; i < 13; ++i) {
        x += y;
        y = ((y << rotations[i % 8]) | (y >> (32 - rotations[i % 8]))) ^ x;
        if (i % 4 == 3) {
            const int injection = i / 4 + 1;
            x += keys[injection % 3];
            y += keys[(injection + 1) % 3] + injection;
        }
    }
}

// (word + 1/2) 2**-32, exact.
INLINE D uniform(U word) { return fma(D(I(word ^ 0x80000000u)), 0x1p-32, 0.5 + 0x1p-33); }

INLINE D log_of_uniform(U word, D) { return log_(uniform(word)); }

// u near 1 would lose the digits that a small radius hangs on, but 1 - u = (~word + 1/2) 2**-32 has them.
INLINE F log_of_uniform(U word, F) {
    const bool is_upper = word >> 31;
    const F least = fma(F(I(is_upper ? ~word : word)), 0x1p-32f, 0x1p-33f);
    return is_upper ? log1p_(-least) : log_(least);
}

// By Box and Muller (1958). The lowest 30 bits of a word, as a signed number, are the angle from the nearest of the four
// axes; the highest two bits of the word + 2**29 say which axis that is.
template <class V> INLINE void box_muller(U one, U other, V& a, V& b) {
    const V angle = fma(V(I(other << 2)), V(0x1.921fb54442d18p-32), V(0x1.921fb54442d18p-31));
    const V sine = sin_(angle), cosine = cos_(angle), radius = square_root(V(-2) * log_of_uniform(one, V()));
    const U axis = other + (1u << 29);
    const bool is_odd = axis >> 30 & 1;
    const V x = radius * (is_odd ? sine : cosine), y = radius * (is_odd ? cosine : sine);
    a = (axis ^ (axis << 1)) >> 31 ? -x : x;
    b = axis >> 31 ? -y : y;
}

struct Normals {
    template <class V> INLINE void make(U one, U other, V& a, V& b) { box_muller(one, other, a, b); }
};
struct Uniforms {
    INLINE void make(U one, U other, D& a, D& b) { a = uniform(one), b = uniform(other); }
};

// Numbers of a site with this key, in pairs; `count` is that of the first pair, from the first step's on.
template <class Kind, class V, class... More>
INLINE void noise_of(const uint32_t* key, U chain, uint32_t count, V& a, V& b, More&... more) {
    U one = chain, other = count;
    threefry(key[0], key[1], one, other);
    Kind::make(one, other, a, b);
    if constexpr (sizeof...(more) > 0) noise_of<Kind>(key, chain, count + 1, more...);
}
template <class Kind, class V>
INLINE void noise_along(const uint32_t* key, U chain, uint32_t count, int64_t pairs, V* to) {
    for (int64_t i = 0; i < pairs; ++i) noise_of<Kind>(key, chain, count + U(i), to[2 * i], to[2 * i + 1]);
}

// Number i of index k of an indexed site: every step and index have a key of their own.
template <int i> INLINE D uniform_at(const uint32_t* key, int64_t step, I k, U chain) {
    U one = U(step), other = U(k), count = i / 2;
    threefry(key[0], key[1], one, other);
    threefry(one, other, chain, count);
    return uniform(i % 2 ? count : chain);
}
