// Lanes: a block of LANES Markov chains, moved together in SIMD registers.
//
// The printed programs of the native engine begin with `#define LANES n` (8, 16 or 32), with `#define ALONE 1` if they
// move one chain and no more, and with this text. It gives them the types F, D, I, U and B (LANES floats, doubles,
// int32s, uint32s and truth values) and every function that they call. For GCC and Clang, C++17, any instruction set:
// vectors are the compilers' vector extensions, and the few operations those lack are named in section 2, each with a
// form for machines without the instruction. Compile with -ffp-contract=off and without -ffast-math: every fused
// multiply-add is written as one, so that results do not depend on how the compiler schedules, and NaN and infinity mean
// what they mean in torch.
//
// No heavy headers: <immintrin.h> and <cmath> alone would take longer to compile than most programs.

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define ENTRY extern "C"  // of a program
#define INFINITE __builtin_inf()
#define UNDEFINED __builtin_nan("")
#ifndef ALONE
#define ALONE 0
#endif
#ifdef __has_builtin
#define HAS_BUILTIN(name) __has_builtin(name)
#else
#define HAS_BUILTIN(name) 0
#endif

namespace {

// ---------------------------------------------------------------------------------------------------------- 1. types
//
// What the machine's widest vector holds is one register; more is a pair of halves, and so on. (GCC lowers comparisons
// and selections of vectors wider than the machine's to scalar code.)

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define WIDEST 64
#elif defined(__AVX2__)
#define WIDEST 32
#else
#define WIDEST 16
#endif
#if WIDEST == 64 && !defined(__clang__)
#define USE_AVX512 1
#endif
#define LANES_32 (4 * LANES <= WIDEST ? LANES : WIDEST / 4)  // of a register of 32-bit elements
#define LANES_64 (8 * LANES <= WIDEST ? LANES : WIDEST / 8)  // of a register of 64-bit elements

typedef float FloatRegister __attribute__((vector_size(4 * LANES_32)));
typedef int32_t IntRegister __attribute__((vector_size(4 * LANES_32)));
typedef uint32_t WordRegister __attribute__((vector_size(4 * LANES_32)));
typedef double DoubleRegister __attribute__((vector_size(8 * LANES_64)));
typedef int64_t LongRegister __attribute__((vector_size(8 * LANES_64)));
typedef uint64_t QuadRegister __attribute__((vector_size(8 * LANES_64)));
typedef float FloatShare __attribute__((vector_size(4 * LANES_64)));   // as many floats as a register holds doubles:
typedef int32_t IntShare __attribute__((vector_size(4 * LANES_64)));   // a half of a FloatRegister, or all of it
typedef uint8_t ByteShare __attribute__((vector_size(LANES_32)));
constexpr int SHARES = LANES_32 / LANES_64;

struct Truth {};

template <class T> struct Traits;
template <> struct Traits<float> { using Register = FloatRegister; using Element = float; using Memory = float; };
template <> struct Traits<double> { using Register = DoubleRegister; using Element = double; using Memory = double; };
template <> struct Traits<int32_t> { using Register = IntRegister; using Element = int32_t; using Memory = int32_t; };
template <> struct Traits<uint32_t> {
    using Register = WordRegister;
    using Element = uint32_t;
    using Memory = uint32_t;
};
template <> struct Traits<Truth> { using Register = IntRegister; using Element = bool; using Memory = uint8_t; };

template <class T, int n> struct Lanes {
    using Element = typename Traits<T>::Element;
    using Memory = typename Traits<T>::Memory;
    using Half = Lanes<T, n / 2>;
    static constexpr int registers = n, size = 2 * Half::size;
    Half lo, hi;
};
template <class T> struct Lanes<T, 1> {
    using Element = typename Traits<T>::Element;
    using Memory = typename Traits<T>::Memory;
    using Register = typename Traits<T>::Register;
    static constexpr int registers = 1, size = sizeof(Register) / sizeof(Register{}[0]);
    Register v;
};

using F = Lanes<float, LANES / LANES_32>;
using D = Lanes<double, LANES / LANES_64>;
using I = Lanes<int32_t, LANES / LANES_32>;
using U = Lanes<uint32_t, LANES / LANES_32>;
using B = Lanes<Truth, LANES / LANES_32>;  // each lane 0 or -1

// ---------------------------------------------------------------------- 2. what vector extensions lack, per register

// The shares of a 32-bit register that go with one 64-bit register each, and back.
#if LANES_64 == 2
#define LOW 0, 1
#define HIGH 2, 3
#elif LANES_64 == 4
#define LOW 0, 1, 2, 3
#define HIGH 4, 5, 6, 7
#else
#define LOW 0, 1, 2, 3, 4, 5, 6, 7
#define HIGH 8, 9, 10, 11, 12, 13, 14, 15
#endif

template <class Share, class Register> INLINE Share share(Register v, int which) {
    if constexpr (SHARES == 1) {
        return v;
    } else {
#if HAS_BUILTIN(__builtin_shufflevector)
        return which ? __builtin_shufflevector(v, v, HIGH) : __builtin_shufflevector(v, v, LOW);
#else
        Share part;
        for (int i = 0; i < LANES_64; ++i) part[i] = v[which * LANES_64 + i];
        return part;
#endif
    }
}

template <class Register, class Share> INLINE Register unite(Share low, Share high) {
#if USE_AVX512 && LANES_32 == 16  // in one instruction; GCC 12 takes three for the general form
    FloatRegister whole = __builtin_ia32_ps512_256ps((FloatShare)low);
    return (Register)__builtin_ia32_insertf32x8_mask(whole, (FloatShare)high, 1, whole, -1);
#elif HAS_BUILTIN(__builtin_shufflevector)
    return __builtin_shufflevector(low, high, LOW, HIGH);
#else
    Register whole;
    for (int i = 0; i < LANES_64; ++i) whole[i] = low[i], whole[LANES_64 + i] = high[i];
    return whole;
#endif
}

// A function of the C library on each lane: for rare branches and for machines without an instruction for it. Out of
// line, as it is long.
template <class Function, class V, class... More>
__attribute__((noinline)) V each(Function function, V x, More... more) {
    for (unsigned i = 0; i < sizeof x / sizeof x[0]; ++i) x[i] = function(x[i], more[i]...);
    return x;
}

// a * b + c, rounded once; square root; rounding (how: 0 to nearest even, 1 down, 2 up, 3 to zero).
#if defined(__clang__) && HAS_BUILTIN(__builtin_elementwise_fma)
template <class V> INLINE V fused(V a, V b, V c) { return __builtin_elementwise_fma(a, b, c); }
template <class V> INLINE V root(V x) { return __builtin_elementwise_sqrt(x); }
template <int how, class V> INLINE V rounded(V x) {
    if constexpr (how == 0) return __builtin_elementwise_roundeven(x);
    if constexpr (how == 1) return __builtin_elementwise_floor(x);
    if constexpr (how == 2) return __builtin_elementwise_ceil(x);
    return __builtin_elementwise_trunc(x);
}
#else
INLINE FloatRegister fused(FloatRegister a, FloatRegister b, FloatRegister c) {
#if USE_AVX512 && LANES_32 == 16
    return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4);
#elif defined(__FMA__) && LANES_32 == 8
    return __builtin_ia32_vfmaddps256(a, b, c);
#elif defined(__FMA__) && LANES_32 == 4
    return __builtin_ia32_vfmaddps(a, b, c);
#elif defined(__FP_FAST_FMAF)
    FloatRegister result;
    for (int i = 0; i < LANES_32; ++i) result[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return result;
#else
    return each([](float x, float y, float z) { return __builtin_fmaf(x, y, z); }, a, b, c);
#endif
}
INLINE DoubleRegister fused(DoubleRegister a, DoubleRegister b, DoubleRegister c) {
#if USE_AVX512
    return __builtin_ia32_vfmaddpd512_mask(a, b, c, -1, 4);
#elif defined(__FMA__) && LANES_64 == 4
    return __builtin_ia32_vfmaddpd256(a, b, c);
#elif defined(__FMA__) && LANES_64 == 2
    return __builtin_ia32_vfmaddpd(a, b, c);
#elif defined(__FP_FAST_FMA)
    DoubleRegister result;
    for (int i = 0; i < LANES_64; ++i) result[i] = __builtin_fma(a[i], b[i], c[i]);
    return result;
#else
    return each([](double x, double y, double z) { return __builtin_fma(x, y, z); }, a, b, c);
#endif
}
INLINE FloatRegister root(FloatRegister x) {
#if USE_AVX512 && LANES_32 == 16
    return __builtin_ia32_sqrtps512_mask(x, x, -1, 4);
#elif WIDEST >= 32
    return __builtin_ia32_sqrtps256(x);
#elif defined(__SSE2__)
    return __builtin_ia32_sqrtps(x);
#else
    return each([](float lane) { return __builtin_sqrtf(lane); }, x);
#endif
}
INLINE DoubleRegister root(DoubleRegister x) {
#if USE_AVX512
    return __builtin_ia32_sqrtpd512_mask(x, x, -1, 4);
#elif WIDEST == 32
    return __builtin_ia32_sqrtpd256(x);
#elif defined(__SSE2__)
    return __builtin_ia32_sqrtpd(x);
#else
    return each([](double lane) { return __builtin_sqrt(lane); }, x);
#endif
}
template <int how> INLINE FloatRegister rounded(FloatRegister x) {
#if USE_AVX512 && LANES_32 == 16
    return __builtin_ia32_rndscaleps_mask(x, how, x, -1, 4);
#elif WIDEST >= 32
    return __builtin_ia32_roundps256(x, how);
#elif defined(__SSE4_1__)
    return __builtin_ia32_roundps(x, how);
#else
    if constexpr (how == 0) return each([](float lane) { return __builtin_rintf(lane); }, x);
    if constexpr (how == 1) return each([](float lane) { return __builtin_floorf(lane); }, x);
    if constexpr (how == 2) return each([](float lane) { return __builtin_ceilf(lane); }, x);
    return each([](float lane) { return __builtin_truncf(lane); }, x);
#endif
}
template <int how> INLINE DoubleRegister rounded(DoubleRegister x) {
#if USE_AVX512
    return __builtin_ia32_rndscalepd_mask(x, how, x, -1, 4);
#elif WIDEST == 32
    return __builtin_ia32_roundpd256(x, how);
#elif defined(__SSE4_1__)
    return __builtin_ia32_roundpd(x, how);
#else
    if constexpr (how == 0) return each([](double lane) { return __builtin_rint(lane); }, x);
    if constexpr (how == 1) return each([](double lane) { return __builtin_floor(lane); }, x);
    if constexpr (how == 2) return each([](double lane) { return __builtin_ceil(lane); }, x);
    return each([](double lane) { return __builtin_trunc(lane); }, x);
#endif
}
#endif

// Comparisons of doubles, and choices between them, by the masks of 32-bit lanes that B is made of.
#if USE_AVX512
#define COMPARE_DOUBLES(a, op, code, b) \
    ((IntShare)__builtin_ia32_cvtmask2d256(__builtin_ia32_cmppd512_mask(a, b, code, -1, 4)))
INLINE DoubleRegister pick(IntShare mask, DoubleRegister a, DoubleRegister b) {
    return __builtin_ia32_blendmpd_512_mask(b, a, __builtin_ia32_cvtd2mask256((IntShare)mask));
}
#else
#define COMPARE_DOUBLES(a, op, code, b) __builtin_convertvector(a op b, IntShare)
INLINE DoubleRegister pick(IntShare mask, DoubleRegister a, DoubleRegister b) {
    return __builtin_convertvector(mask, LongRegister) ? a : b;
}
#endif

INLINE DoubleRegister widen(FloatShare x) {
#if USE_AVX512
    return __builtin_ia32_cvtps2pd512_mask(x, DoubleRegister{}, -1, 4);  // GCC 12 takes four instructions for the other
#else
    return __builtin_convertvector(x, DoubleRegister);
#endif
}
INLINE DoubleRegister widen(IntShare x) { return __builtin_convertvector(x, DoubleRegister); }

INLINE bool any_lane(IntRegister mask) {  // of a mask: its lanes are 0 or -1
#if USE_AVX512 && LANES_32 == 16
    return __builtin_ia32_cvtd2mask512(mask) != 0;
#elif defined(__AVX2__) && LANES_32 == 8
    return __builtin_ia32_movmskps256((FloatRegister)mask) != 0;
#elif defined(__SSE2__) && LANES_32 == 4
    return __builtin_ia32_movmskps((FloatRegister)mask) != 0;
#else
    int32_t found = 0;
    for (int i = 0; i < LANES_32; ++i) found |= mask[i];
    return found != 0;
#endif
}
INLINE bool any_lane(LongRegister mask) {
#if USE_AVX512
    typedef long long Masks __attribute__((vector_size(64)));
    return __builtin_ia32_cvtq2mask512((Masks)mask) != 0;
#elif defined(__AVX2__) && LANES_64 == 4
    return __builtin_ia32_movmskpd256((DoubleRegister)mask) != 0;
#elif defined(__SSE2__) && LANES_64 == 2
    return __builtin_ia32_movmskpd((DoubleRegister)mask) != 0;
#else
    int64_t found = 0;
    for (int i = 0; i < LANES_64; ++i) found |= mask[i];
    return found != 0;
#endif
}

#if USE_AVX512
// x 2**n, rounded once; m in [3/4, 3/2) of x = m 2**e, NaN for x < 0; the exponent of x, 2**exponent <= x.
INLINE DoubleRegister scale_by(DoubleRegister x, DoubleRegister n) {
    return __builtin_ia32_scalefpd512_mask(x, n, x, -1, 4);
}
INLINE DoubleRegister mantissa(DoubleRegister x) { return __builtin_ia32_getmantpd512_mask(x, 11, x, -1, 4); }
INLINE DoubleRegister exponent(DoubleRegister x) { return __builtin_ia32_getexppd512_mask(x, x, -1, 4); }
#if LANES_32 == 16
INLINE FloatRegister scale_by(FloatRegister x, FloatRegister n) {
    return __builtin_ia32_scalefps512_mask(x, n, x, -1, 4);
}
INLINE FloatRegister mantissa(FloatRegister x) { return __builtin_ia32_getmantps512_mask(x, 11, x, -1, 4); }
INLINE FloatRegister exponent(FloatRegister x) { return __builtin_ia32_getexpps512_mask(x, x, -1, 4); }
#else
INLINE FloatRegister scale_by(FloatRegister x, FloatRegister n) { return __builtin_ia32_scalefps256_mask(x, n, x, -1); }
INLINE FloatRegister mantissa(FloatRegister x) { return __builtin_ia32_getmantps256_mask(x, 11, x, -1); }
INLINE FloatRegister exponent(FloatRegister x) { return __builtin_ia32_getexpps256_mask(x, x, -1); }
#endif
#endif

// ------------------------------------------------------------------------------------- 3. memory, operators, choices

// The same value in all lanes.
template <class V> INLINE V full(typename V::Element value) {
    if constexpr (V::registers > 1) return {full<typename V::Half>(value), full<typename V::Half>(value)};
    else if constexpr (sizeof(typename V::Memory) == 1) return {-int32_t(value) - typename V::Register{}};
    else return {value - typename V::Register{}};  // and not + 0, which would turn -0 into 0
}

// All lanes from consecutive memory, aligned or not.
template <class V> INLINE V load(const typename V::Memory* from) {
    if constexpr (V::registers > 1) {
        return {load<typename V::Half>(from), load<typename V::Half>(from + V::Half::size)};
    } else if constexpr (sizeof(typename V::Memory) == 1) {
        ByteShare bytes;
        memcpy(&bytes, from, sizeof bytes);
        return {__builtin_convertvector(bytes, IntRegister) != 0};
    } else {
        V v;
        memcpy(&v.v, from, sizeof v.v);
        return v;
    }
}

// The first `count` lanes, 1 <= count <= LANES, from memory, which is not read beyond them; the rest repeat the last.
template <class V> INLINE V load(const typename V::Memory* from, int64_t count) {
    if (__builtin_expect(count == V::size, 1)) return load<V>(from);
    typename V::Memory all[V::size];
    for (int i = 0; i < V::size; ++i) all[i] = from[i < count ? i : count - 1];
    return load<V>(all);
}

template <class V> INLINE void store_all(typename V::Memory* to, V v) {
    if constexpr (V::registers > 1) {
        store_all(to, v.lo);
        store_all(to + V::Half::size, v.hi);
    } else if constexpr (sizeof(typename V::Memory) == 1) {
        ByteShare bytes = __builtin_convertvector(-v.v, ByteShare);
        memcpy(to, &bytes, sizeof bytes);
    } else {
        memcpy(to, &v.v, sizeof v.v);
    }
}

// The first `count` lanes to memory, which is not written beyond them; truth values as bytes 0 and 1.
template <class V> INLINE void store(typename V::Memory* to, V v, int64_t count) {
    if (__builtin_expect(count == V::size, 1)) return store_all(to, v);
    typename V::Memory all[V::size];
    store_all(all, v);
    memcpy(to, all, count * sizeof all[0]);
}

template <class T> INLINE void swap(T*& one, T*& other) {
    T* kept = one;
    one = other, other = kept;
}

// 0, 1, ..., count - 1; the rest repeat the last, as in `load`. A chain in all of them is one: no loop waits for more.
INLINE I lane_numbers(int64_t count) {
    int32_t numbers[LANES];
    for (int i = 0; i < LANES; ++i) numbers[i] = i < count ? i : count - 1;
    return load<I>(numbers);
}

#define BINARY(op)                                                                        \
    template <class T, int n> INLINE Lanes<T, n> operator op(Lanes<T, n> a, Lanes<T, n> b) { \
        if constexpr (n > 1) return {a.lo op b.lo, a.hi op b.hi};                         \
        else return {a.v op b.v};                                                         \
    }
BINARY(+) BINARY(-) BINARY(*) BINARY(/) BINARY(&) BINARY(|) BINARY(^) BINARY(<<) BINARY(>>)

#define UNARY(op)                                                         \
    template <class T, int n> INLINE Lanes<T, n> operator op(Lanes<T, n> x) { \
        if constexpr (n > 1) return {op x.lo, op x.hi};                   \
        else return {op x.v};                                             \
    }
UNARY(-) UNARY(~)

#define SHIFT(op)                                                                    \
    template <class T, int n> INLINE Lanes<T, n> operator op(Lanes<T, n> x, int count) { \
        if constexpr (n > 1) return {x.lo op count, x.hi op count};                  \
        else return {x.v op count};                                                  \
    }
SHIFT(<<) SHIFT(>>)

// How many registers of a type go with one register of B.
template <class T> constexpr int UNIT = sizeof(typename Lanes<T, 1>::Memory) == 8 ? SHARES : 1;

#define COMPARISON(op, code)                                                                                  \
    template <class T, int n> INLINE Lanes<Truth, n / UNIT<T>> operator op(Lanes<T, n> a, Lanes<T, n> b) {      \
        if constexpr (n > UNIT<T>) return {a.lo op b.lo, a.hi op b.hi};                                       \
        else if constexpr (sizeof(typename Lanes<T, n>::Memory) == 4) return {a.v op b.v};                    \
        else if constexpr (n == 1) return {COMPARE_DOUBLES(a.v, op, code, b.v)};                              \
        else return {unite<IntRegister>(COMPARE_DOUBLES(a.lo.v, op, code, b.lo.v),                            \
                                        COMPARE_DOUBLES(a.hi.v, op, code, b.hi.v))};                          \
    }
COMPARISON(<, 1) COMPARISON(<=, 2) COMPARISON(>, 14) COMPARISON(>=, 13) COMPARISON(==, 0) COMPARISON(!=, 4)

// x where the mask is true, y elsewhere.
template <class T, int m, int n> INLINE Lanes<T, n> select(Lanes<Truth, m> mask, Lanes<T, n> x, Lanes<T, n> y) {
    if constexpr (m > 1) return {select(mask.lo, x.lo, y.lo), select(mask.hi, x.hi, y.hi)};
    else if constexpr (sizeof(typename Lanes<T, n>::Memory) != 8) return {mask.v ? x.v : y.v};
    else if constexpr (n == 1) return {pick(mask.v, x.v, y.v)};
    else return {{pick(share<IntShare>(mask.v, 0), x.lo.v, y.lo.v)},
                 {pick(share<IntShare>(mask.v, 1), x.hi.v, y.hi.v)}};
}

template <int n> INLINE bool any(Lanes<Truth, n> mask) {
    if constexpr (n > 1) return any(mask.lo | mask.hi);
    else return any_lane(mask.v);
}
template <int n> INLINE bool all(Lanes<Truth, n> mask) { return !any(~mask); }

// ------------------------------------------------------------------------------------------------------ 4. conversions

INLINE F to_f(F x) { return x; }
INLINE D to_d(D x) { return x; }
INLINE I to_i(I x) { return x; }
INLINE B to_b(B x) { return x; }

template <int n> INLINE Lanes<float, n> to_f(Lanes<int32_t, n> x) {
    if constexpr (n > 1) return {to_f(x.lo), to_f(x.hi)};
    else return {__builtin_convertvector(x.v, FloatRegister)};
}
// Towards zero; what does not fit, NaN included, becomes a machine's favourite number.
template <int n> INLINE Lanes<int32_t, n> to_i(Lanes<float, n> x) {
    if constexpr (n > 1) return {to_i(x.lo), to_i(x.hi)};
    else return {__builtin_convertvector(x.v, IntRegister)};
}

template <class To, class Share, class T, int n> INLINE To from_doubles(Lanes<T, n> x) {
    if constexpr (To::registers > 1) {
        return {from_doubles<typename To::Half, Share>(x.lo), from_doubles<typename To::Half, Share>(x.hi)};
    } else if constexpr (n == 1) {
        return {__builtin_convertvector(x.v, Share)};
    } else {
        return {unite<typename To::Register>(__builtin_convertvector(x.lo.v, Share),
                                             __builtin_convertvector(x.hi.v, Share))};
    }
}
INLINE F to_f(D x) { return from_doubles<F, FloatShare>(x); }
INLINE I to_i(D x) { return from_doubles<I, IntShare>(x); }

template <class To, class Share, class T, int n> INLINE To to_doubles(Lanes<T, n> x) {
    if constexpr (n > 1) {
        return {to_doubles<typename To::Half, Share>(x.lo), to_doubles<typename To::Half, Share>(x.hi)};
    } else if constexpr (To::registers == 1) {
        return {widen(x.v)};
    } else {
        return {{widen(share<Share>(x.v, 0))}, {widen(share<Share>(x.v, 1))}};
    }
}
INLINE D to_d(F x) { return to_doubles<D, FloatShare>(x); }
INLINE D to_d(I x) { return to_doubles<D, IntShare>(x); }

template <int n> INLINE Lanes<int32_t, n> to_i(Lanes<Truth, n> x) {
    if constexpr (n > 1) return {to_i(x.lo), to_i(x.hi)};
    else return {-x.v};
}
INLINE F to_f(B x) { return select(x, full<F>(1), full<F>(0)); }
INLINE D to_d(B x) { return select(x, full<D>(1), full<D>(0)); }

INLINE B to_b(F x) { return x != full<F>(0); }
INLINE B to_b(D x) { return x != full<D>(0); }
INLINE B to_b(I x) { return x != full<I>(0); }

// ------------------------------------------------------------------------------------------------ 5. exact arithmetic

template <class T, int n> INLINE Lanes<T, n> fma(Lanes<T, n> a, Lanes<T, n> b, Lanes<T, n> c) {
    if constexpr (n > 1) return {fma(a.lo, b.lo, c.lo), fma(a.hi, b.hi, c.hi)};
    else return {fused(a.v, b.v, c.v)};
}

#define LIFT(name, function)                                     \
    template <class T, int n> INLINE Lanes<T, n> name(Lanes<T, n> x) { \
        if constexpr (n > 1) return {name(x.lo), name(x.hi)};    \
        else return {function(x.v)};                             \
    }
LIFT(square_root, root)
LIFT(round_, rounded<0>)
LIFT(floor_, rounded<1>)
LIFT(ceil_, rounded<2>)
LIFT(trunc_, rounded<3>)

INLINE FloatRegister magnitude(FloatRegister x) { return (FloatRegister)((IntRegister)x & 0x7fffffff); }
INLINE DoubleRegister magnitude(DoubleRegister x) { return (DoubleRegister)((LongRegister)x & 0x7fffffffffffffff); }
INLINE IntRegister magnitude(IntRegister x) { return x < 0 ? -x : x; }
LIFT(absolute, magnitude)

// NaN if either is, as torch has it; of the two zeros, either.
template <class T, int n> INLINE Lanes<T, n> minimum(Lanes<T, n> a, Lanes<T, n> b) {
    if constexpr (n > 1) {
        return {minimum(a.lo, b.lo), minimum(a.hi, b.hi)};
    } else {
        auto smaller = a.v < b.v ? a.v : b.v;  // b if one is NaN
        return {a.v == a.v ? smaller : a.v};
    }
}
template <class T, int n> INLINE Lanes<T, n> maximum(Lanes<T, n> a, Lanes<T, n> b) {
    if constexpr (n > 1) {
        return {maximum(a.lo, b.lo), maximum(a.hi, b.hi)};
    } else {
        auto larger = a.v > b.v ? a.v : b.v;
        return {a.v == a.v ? larger : a.v};
    }
}

template <class T, int n> INLINE auto is_nan(Lanes<T, n> x) { return x != x; }
template <class T, int n> INLINE auto is_finite(Lanes<T, n> x) {
    return absolute(x) < full<Lanes<T, n>>(__builtin_inff());
}

// --------------------------------------------------------------------------------------------- 6. elementary functions
//
// NaN gives NaN; infinities, zeros, denormals and arguments outside the domain give what torch gives. The errors stated
// are bounds in ulps of the result's type, checked by the tests; the polynomials are minimax fits by Remez' algorithm.

template <class V> struct Format;
template <> struct Format<FloatRegister> {
    using Word = WordRegister;
    using Mask = IntRegister;
    using Bits = uint32_t;
    static constexpr int digits = 23, bias = 127;
    static constexpr float tiny = 0x1p-126f, magic = 0x1.8p23f, shift = 0x1p23f, infinity = __builtin_inff();
    static constexpr float log2_e = 0x1.715476p+0f, ln2 = 0x1.62e43p-1f, ln2_rest = -0x1.05c61p-29f;
    static constexpr float exp_least = -104, exp_most = 89, expm1_least = -18, tanh_most = 10, erf_most = 4;
    static constexpr float half_pi[3] = {0x1.921fb6p+0f, -0x1.777a5cp-25f, -0x1.ee59dap-50f}, per_pi = 0x1.45f306p-2f;
    static constexpr float sin_most = 1e5f;
};
template <> struct Format<DoubleRegister> {
    using Word = QuadRegister;
    using Mask = LongRegister;
    using Bits = uint64_t;
    static constexpr int digits = 52, bias = 1023;
    static constexpr double tiny = 0x1p-1022, magic = 0x1.8p52, shift = 0x1p52, infinity = __builtin_inf();
    static constexpr double log2_e = 0x1.71547652b82fep+0, ln2 = 0x1.62e42fefa39efp-1, ln2_rest = 0x1.abc9e3b39803fp-56;
    static constexpr double exp_least = -746, exp_most = 710, expm1_least = -38, tanh_most = 20, erf_most = 6;
    static constexpr double half_pi[3] = {0x1.921fb54442d18p+0, 0x1.1a62633145c07p-54, -0x1.f1976b7ed8fbcp-110};
    static constexpr double per_pi = 0x1.45f306dc9c883p-2, sin_most = 1e8;
};

template <class V> INLINE typename Format<V>::Word bits(V x) { return (typename Format<V>::Word)x; }
template <class V> INLINE typename Format<V>::Word sign_bit(V x) {
    using Bits = typename Format<V>::Bits;
    return bits(x) & (Bits(1) << (8 * sizeof(Bits) - 1));
}
// For x of the model's sign, or without one.
template <class V> INLINE V with_sign_of(V x, V model) { return (V)(bits(x) | sign_bit(model)); }

// A polynomial, lowest coefficient first, in blocks of four and by fused multiply-adds (Estrin 1960): half the latency
// of Horner's scheme for two multiplications more.
template <class V, class T> INLINE V polynomial(V, T a) { return a - V{}; }
template <class V, class T> INLINE V polynomial(V x, T a, T b) { return fused(b - V{}, x, a - V{}); }
template <class V, class T> INLINE V polynomial(V x, T a, T b, T c) {
    return fused(c - V{}, x * x, polynomial(x, a, b));
}
template <class V, class T> INLINE V polynomial(V x, T a, T b, T c, T d) {
    return fused(polynomial(x, c, d), x * x, polynomial(x, a, b));
}
template <class V, class T, class... Rest> INLINE V polynomial(V x, T a, T b, T c, T d, Rest... rest) {
    V square = x * x;
    return fused(polynomial(x, rest...), square * square, polynomial(x, a, b, c, d));
}

// x, but not above or below a limit. NaN stays, as it compares false.
template <class V, class T> INLINE V at_most(T limit, V x) { return limit - V{} < x ? limit - V{} : x; }
template <class V, class T> INLINE V at_least(T limit, V x) { return limit - V{} > x ? limit - V{} : x; }

// The nearest integer to x, |x| < 2**22 or 2**51, of whose sum with `magic` the last bits are those of the integer.
template <class V> INLINE V nearest_integer(V x) { return (x + Format<V>::magic) - Format<V>::magic; }

// 2**n for an integer n between the exponents of the smallest and the largest normal numbers.
template <class V> INLINE V two_to(V n) {
    return (V)((bits(n + Format<V>::magic) + Format<V>::bias) << Format<V>::digits);
}

// x 2**n for an integer n, rounded once if the result is denormal, infinite if it is too large: x in [0.5, 2].
template <class V> INLINE V times_two_to(V x, V n) {
#if USE_AVX512
    return scale_by(x, n);
#else
    V half = nearest_integer(n * 0.5f);  // the factor itself may not be a number of this type
    return x * two_to(half) * two_to(n - half);
#endif
}

// m in [3/4, 3/2) and an integer e with x = m 2**e, for 0 < x < inf.
template <class V> INLINE void split(V x, V& m, V& e) {
#if USE_AVX512
    m = mantissa(x);  // also NaN for x < 0, and then e = -inf for 0 and inf for inf
    e = exponent(x) - exponent(m);
#else
    using N = Format<V>;
    auto is_tiny = x < N::tiny;
    x = is_tiny ? x * N::shift : x;
    constexpr typename N::Bits three_quarters = typename N::Bits(2 * N::bias - 1) << (N::digits - 1);
    constexpr typename N::Bits offset = typename N::Bits(N::bias + 1) << N::digits;  // keeps the exponent positive
    auto raised = (bits(x) - three_quarters + offset) >> N::digits;
    m = (V)(bits(x) - ((raised << N::digits) - offset));
    e = (V)(raised | bits(V{} + N::shift)) - (N::shift + (N::bias + 1));
    e -= is_tiny ? V{} + N::digits : V{};
#endif
}

// ---- exp: x = n ln 2 + r, |r| <= ln(2) / 2 (Cody and Waite 1980); exp(r) = 1 + r + r**2 Q(r), and n to the exponent.

template <class V> INLINE V exp_rest(V r) {  // Q
    if constexpr (sizeof(r[0]) == 4) {
        return polynomial(r, 0.5f, 0.166665152f, 0.0416661985f, 0.00836923905f, 0.00139510934f);
    } else {
        return polynomial(r, 0.5, 0.16666666666666685, 0.04166666666666673, 0.008333333333316076, 0.0013888888888857337,
                          0.00019841269898721655, 2.4801587375686743e-05, 2.75572325563292e-06, 2.755723182602126e-07,
                          2.5112831597242935e-08, 2.0927389217887244e-09);
    }
}

template <class V> INLINE V exp_of_sum(V x, V little) {  // exp(x + little) for |little| << |x|
    using N = Format<V>;
    V n = nearest_integer(x * N::log2_e);
    V r = fused(n, V{} - N::ln2_rest, fused(n, V{} - N::ln2, x)) + little;
    return times_two_to(fused(r * r, exp_rest(r), r) + 1, n);
}

// Error below 1.1 ulp.
template <class V> INLINE V exponential(V x) {
    using N = Format<V>;
    return exp_of_sum(at_least(N::exp_least, at_most(N::exp_most, x)), V{} - 0.0f);
}

// ---- exp(x) - 1: as exp, with what rounding r lost (Tang 1992): 2**n (1 + p) - 1 = 2**n p + (2**n - 1).

template <class V> INLINE V expm1_within(V x) {  // for x between expm1_least and exp_most; without the sign of -0
    using N = Format<V>;
    V n = nearest_integer(x * N::log2_e), first = fused(n, V{} - N::ln2, x), second = n * N::ln2_rest;
    V r = first - second, rest;
    if constexpr (sizeof(r[0]) == 4) {
        rest = polynomial(r, 0.5f, 0.166666672f, 0.0416663475f, 0.0083332723f, 0.00139415206f, 0.000199148868f);
    } else {
        rest = exp_rest(r);
    }
    rest = fused(r * r, rest, (first - r) - second);
    V half = two_to(n - 1);  // 2**n may be infinite
    return n == 0 ? r + rest : 2 * fused(half, rest, fused(half, r, half - 0.5f));
}

// Error below 1.5 ulp.
template <class V> INLINE V exponential_less_1(V x) {
    using N = Format<V>;
    return with_sign_of(expm1_within(at_least(N::expm1_least, at_most(N::exp_most, x))), x);
}

// ---- log: x = m 2**e, f = m - 1, log(x) = e ln 2 + log1p(f).

template <class V> INLINE V log_of(V f, V e) {
    V correction;  // log1p(f) - f
    if constexpr (sizeof(f[0]) == 4) {
        V square = f * f;
        V rest = polynomial(f, 0.333334476f, -0.250001937f, 0.199910909f, -0.166437432f, 0.144677043f, -0.131868914f,
                            0.105827741f, -0.046167437f);
        correction = fused(V{} - 0.5f, square, f * square * rest);
    } else {
        // As fdlibm's e_log.c: with s = f / (2 + f), log1p(f) = 2 atanh(s) = f - f**2 / 2 + s (f**2 / 2 + R(s**2)).
        V s = f / (f + 2), z = s * s, half_square = 0.5f * f * f;
        V rest = z * polynomial(z, 0.666666666666666, 0.4000000000005594, 0.28571428556007383, 0.22222224276180894,
                                0.1818166708972754, 0.15391072389892077, 0.1317426248781524, 0.13838562594672427);
        correction = fused(s, half_square + rest, -half_square);
    }
    return fused(e, V{} + Format<V>::ln2, f + correction);
}

// The logarithm where x is positive and finite, else what it is at 0, below and at infinity.
template <class V> INLINE V unless_special(V x, V logarithm) {
    using N = Format<V>;
    V special = x == 0 ? V{} - N::infinity : x < 0 ? V{} + __builtin_nanf("") : x;
    auto is_ordinary = (x > 0) & (x < N::infinity);
    return is_ordinary ? logarithm : special;
}

template <class V> INLINE V log_of_positive(V x) {
    V m, e;
    split(x, m, e);
    return log_of(m - 1, e);
}

// Error below 1.5 ulp.
template <class V> INLINE V logarithm(V x) {
#if USE_AVX512
    return log_of_positive(x);  // whose m and e are NaN or infinite where the logarithm is
#else
    return unless_special(x, log_of_positive(x));
#endif
}

// ---- log(1 + x): the rounding of 1 + x is undone in f = x 2**-e + (2**-e - 1), one rounding. Error below 1.5 ulp.
template <class V> INLINE V logarithm_of_1_plus(V x) {
    V sum = 1 + x, m, e;
    split(sum, m, e);
    V scale = two_to(-at_most(64.0f, e)), f = fused(x, scale, scale - 1);
    f = e > 32 ? m - 1 : f;  // where 1 is a trifle
    return with_sign_of(unless_special(sum, log_of(f, e)), x);
}

// ---- sin, cos: x = q pi / 2 + r, |r| <= pi / 2, q even for sin and odd for cos, so that both are +-sin(r); pi / 2 in
// three parts (Cody and Waite 1980), each product exact or nearly so. Error below 3 ulp. Huge
// arguments go to the C library.

template <class V> INLINE V sine_of_rest(V x, V q, typename Format<V>::Word sign) {
    using N = Format<V>;
    V r = fused(q, V{} - N::half_pi[0], x);
    r = fused(q, V{} - N::half_pi[1], r);
    r = fused(q, V{} - N::half_pi[2], r);
    V z = r * r, rest;
    if constexpr (sizeof(x[0]) == 4) {
        rest = polynomial(z, -0.166666597f, 0.00833306648f, -0.00019809384f, 2.60487263e-06f);
    } else {
        rest = polynomial(z, -0.16666666666666666, 0.008333333333333212, -0.00019841269841215024,
                          2.7557319212084584e-06, -2.5052106955620267e-08, 1.6058943690133986e-10,
                          -7.643090926614091e-13, 2.7221809210172285e-15);
    }
    return (V)(bits(with_sign_of(fused(r * z, rest, r), r)) ^ sign);  // the sign of r is that of -0 too
}

template <class V> INLINE typename Format<V>::Word sign_of_power(V n) {  // (-1)**n, as a sign bit
    return bits(n + Format<V>::magic) << (8 * sizeof(n[0]) - 1);
}

template <class V> INLINE V sine_nearby(V x) {
    V n = nearest_integer(x * Format<V>::per_pi);
    return sine_of_rest(x, 2 * n, sign_of_power(n));
}
template <class V> INLINE V cosine_nearby(V x) {
    V n = nearest_integer(fused(x, V{} + Format<V>::per_pi, V{} - 0.5f));
    return sine_of_rest(x, 2 * n + 1, sign_of_power(n + 1));
}

template <class V> INLINE V sine(V x) {
    if (__builtin_expect(any_lane((typename Format<V>::Mask)(magnitude(x) > Format<V>::sin_most)), 0)) {
        return each([](auto lane) { return sizeof lane == 4 ? __builtin_sinf(lane) : __builtin_sin(lane); }, x);
    }
    return sine_nearby(x);
}
template <class V> INLINE V cosine(V x) {
    if (__builtin_expect(any_lane((typename Format<V>::Mask)(magnitude(x) > Format<V>::sin_most)), 0)) {
        return each([](auto lane) { return sizeof lane == 4 ? __builtin_cosf(lane) : __builtin_cos(lane); }, x);
    }
    return cosine_nearby(x);
}

// ---- tanh(x) = e / (e + 2) with e = exp(2 |x|) - 1, and the sign of x. Error below 3 ulp.
template <class V> INLINE V hyperbolic_tangent(V x) {
    V e = expm1_within(2 * at_most(Format<V>::tanh_most, magnitude(x)));
    return with_sign_of(e / (e + 2), x);
}

// ---- 1 / (1 + exp(-x)), from exp(-|x|), which never overflows. Error below 3 ulp.
template <class V> INLINE V sigmoid(V x) {
    V e = exponential(-magnitude(x));
    return (x < 0 ? e : V{} + 1) / (1 + e);
}

// ---- erf: x + x P(x**2) up to 1; from there 1 - exp(-x**2) Q(1 / (x + 2)), which is 1 from erf_most on, with the
// sign of x (in the manner of Cody 1969). Error below 2 ulp.
template <class V> INLINE V error_function(V x) {
    V a = at_most(Format<V>::erf_most, magnitude(x)), square = a * a, t = 1 / (a + 2), small, large;
    if constexpr (sizeof(x[0]) == 4) {
        small = polynomial(square, 0.128379167f, -0.37612626f, 0.112836003f, -0.0268544443f, 0.00518953567f,
                           -0.00080208428f, 7.88912366e-05f);
        large = polynomial(t, 0.00182247849f, 0.519401312f, 1.58720791f, -0.515683711f, 10.1868782f, -7.38565207f);
    } else {
        small = polynomial(square, 0.12837916709551257, -0.3761263890318375, 0.11283791670954885, -0.02686617064507787,
                           0.005223977624828388, -0.000854832698142356, 0.00012055331132898825,
                           -1.4925595771131978e-05, 1.6461008465484959e-06, -1.635039613432129e-07,
                           1.4660328376676978e-08, -1.1374955251437829e-09, 5.960685797959189e-11);
        large = polynomial(t, -7.2736003521640725e-06, 0.564581436202294, 1.1186426494519874, 2.1222999419046062,
                           1.298825597294634, 13.919893689896988, -61.17477994992672, 235.83951477392927,
                           -718.4134679998448, 1421.4217759087421, -1782.6167112464302, 1379.7972078124335,
                           -598.5548829311439, 108.80523382955047);
    }
    large = fused(-exp_of_sum(-square, V{} - 0.0f), large, V{} + 1);
    return with_sign_of(a < 1 ? fused(a, small, a) : large, x);
}

LIFT(exp_, exponential)
LIFT(expm1_, exponential_less_1)
LIFT(log_, logarithm)
LIFT(log1p_, logarithm_of_1_plus)
LIFT(sin_, sine)
LIFT(cos_, cosine)
LIFT(tanh_, hyperbolic_tangent)
LIFT(sigmoid_, sigmoid)
LIFT(erf_, error_function)

// ---- pow: exp(y log |x|), where log has some 12 bits more than the result; then the sign, and C99's special cases.

// For doubles, the logarithm is a sum hi + lo, from products and quotients in pairs (Dekker 1971): with m = x 2**-e and
// s = (m - 1) / (m + 1), it is e ln 2 + 2 s + 2/3 s**3 + s**5 R(s**2), and only the last term is rounded.
INLINE DoubleRegister power_of_magnitude(DoubleRegister a, DoubleRegister y) {
    using V = DoubleRegister;
    using N = Format<V>;
    V m, e;
    split(a, m, e);
    V above = m - 1, sum = m + 1, sum_lost = m - (sum - 1);
    V s = above / sum, s_lost = (fused(-s, sum, above) - s * sum_lost) / sum;
    V z = s * s, z_lost = fused(s, s, -z) + 2 * s * s_lost;
    V cube = z * s, cube_lost = fused(z, s, -cube) + z * s_lost + z_lost * s;
    V third = cube * (2.0 / 3), third_lost = fused(cube, V{} + 2.0 / 3, -third) + cube * 0x1.5555555555555p-55;
    third_lost += cube_lost * (2.0 / 3);
    V rest = polynomial(z, 0.39999999999999725, 0.28571428571577184, 0.22222222191273777, 0.1818182152361607,
                        0.15384406769351078, 0.13341141238771695, 0.11592403840913947, 0.12571172920564072);
    V twice = 2 * s, odd = twice + third, odd_lost = (twice - odd) + third;
    V scaled = e * N::ln2, scaled_lost = fused(e, V{} + N::ln2, -scaled) + e * N::ln2_rest;
    V first = scaled + odd, part = first - scaled, first_lost = (scaled - (first - part)) + (odd - part);
    V second = first_lost + (odd_lost + (third_lost + 2 * s_lost + scaled_lost + cube * z * rest));
    V hi = first + second, lo = second - (hi - first);
    hi = unless_special(a, hi);
    V product = y * hi, product_lost = fused(y, hi, -product) + y * lo;
    product_lost = magnitude(product) < 1000 ? product_lost : V{};
    return exp_of_sum(at_least(N::exp_least, at_most(N::exp_most, product)), product_lost);
}
template <int n> INLINE Lanes<double, n> power_of_magnitude(Lanes<double, n> a, Lanes<double, n> y) {
    if constexpr (n > 1) return {power_of_magnitude(a.lo, y.lo), power_of_magnitude(a.hi, y.hi)};
    else return {power_of_magnitude(a.v, y.v)};
}
// For floats, double precision leaves nothing to be desired.
INLINE F power_of_magnitude(F a, F y) { return to_f(exp_(to_d(y) * log_(to_d(a)))); }

template <class V> INLINE V signed_power(V x, V y, V power) {
    using N = Format<V>;
    V half = 0.5f * y;
    auto is_integer = rounded<0>(y) == y, is_odd = is_integer & (rounded<0>(half) != half);  // inf is an even integer
    power = is_odd ? with_sign_of(power, x) : power;
    power = (x < 0) & (x > -N::infinity) & ~is_integer ? V{} + __builtin_nanf("") : power;
    return (y == 0) | (x == 1) | ((x == -1) & (magnitude(y) == N::infinity)) ? V{} + 1 : power;
}
template <class T, int n> INLINE Lanes<T, n> signed_power(Lanes<T, n> x, Lanes<T, n> y, Lanes<T, n> power) {
    if constexpr (n > 1) return {signed_power(x.lo, y.lo, power.lo), signed_power(x.hi, y.hi, power.hi)};
    else return {signed_power(x.v, y.v, power.v)};
}

// Error below 1 ulp for floats, 2 ulp for doubles.
template <class T, int n> INLINE Lanes<T, n> pow_(Lanes<T, n> x, Lanes<T, n> y) {
    return signed_power(x, y, power_of_magnitude(absolute(x), y));
}

// --------------------------------------------------------------------------------------------------- 7. random numbers

INLINE uint32_t rotate_left(uint32_t x, int count) { return (x << count) | (x >> (32 - count)); }
template <int n> INLINE Lanes<uint32_t, n> rotate_left(Lanes<uint32_t, n> x, int count) {
    return (x << count) | (x >> (32 - count));
}

template <class W> INLINE W same(uint32_t word) {
    if constexpr (sizeof(W) == sizeof word) return word;
    else return full<W>(word);
}

// Threefry-2x32-13 (Salmon, Moraes, Dror and Shaw 2011): encrypts the counters x, y with the key. Words are single ones
// or lanes of them.
template <class W> INLINE void threefry(W k0, W k1, W& x, W& y) {
    constexpr int rotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
    const W keys[3] = {k0, k1, k0 ^ k1 ^ same<W>(0x1BD11BDA)};
    x = x + k0;
    y = y + k1;
#pragma GCC unroll 13
    for (int i = 0; i < 13; ++i) {
        x = x + y;
        y = rotate_left(y, rotations[i % 8]) ^ x;
        if (i % 4 == 3) {
            int injection = i / 4 + 1;
            x = x + keys[injection % 3];
            y = y + (keys[(injection + 1) % 3] + same<W>(injection));
        }
    }
}
INLINE void threefry(uint32_t k0, uint32_t k1, U& x, U& y) { threefry(full<U>(k0), full<U>(k1), x, y); }

template <int n> INLINE Lanes<int32_t, n> as_signed(Lanes<uint32_t, n> x) {
    if constexpr (n > 1) return {as_signed(x.lo), as_signed(x.hi)};
    else return {(IntRegister)x.v};
}

INLINE U as_words(I x) { return load<U>((const uint32_t*)&x); }

// (word + 1/2) 2**-32, exact. Converted as a signed integer, which every machine does in one instruction.
INLINE D uniform(U word) {
    D centred = to_d(as_signed(word ^ full<U>(0x80000000)));  // word - 2**31
    return fma(centred, full<D>(0x1p-32), full<D>(0.5 + 0x1p-33));
}

// Normals by Box and Muller (1958): sqrt(-2 log u) (cos 2 pi v, sin 2 pi v) for the uniforms u, v of two words.

LIFT(log_of_positive, log_of_positive)

INLINE D radius(U word, D) { return square_root(full<D>(-2) * log_of_positive(uniform(word))); }

// In single precision, u near 1 would lose the digits that a small radius hangs on; but 1 - u = (~word + 1/2) 2**-32
// has them. So the smaller one of u and 1 - u is rounded, and log1p(f) taken of f = u - 1 wherever u >= 3/4.
INLINE FloatRegister radius(WordRegister word) {
    IntRegister is_upper = (IntRegister)word >> 31;
    IntRegister least = (IntRegister)word ^ is_upper;
    FloatRegister x = fused(__builtin_convertvector(least, FloatRegister), FloatRegister{} + 0x1p-32f,
                            FloatRegister{} + 0x1p-33f);
    FloatRegister u = is_upper ? 1 - x : x, m, e;
    split(u, m, e);
    FloatRegister f = u >= 0.75f ? -x : m - 1;
    return root(-2 * log_of(f, e));
}
template <int n> INLINE Lanes<float, n> radius(Lanes<uint32_t, n> word, Lanes<float, n> type) {
    if constexpr (n > 1) return {radius(word.lo, type.lo), radius(word.hi, type.hi)};
    else return {radius(word.v)};
}

// sin and cos for |x| <= pi / 4.
template <class V> INLINE V sine_in_octant(V x) {
    V z = x * x, rest;
    if constexpr (sizeof(x[0]) == 4) {
        rest = polynomial(z, -0.166666552f, 0.008332178f, -0.000195172674f);
    } else {
        rest = polynomial(z, -0.16666666666666632, 0.008333333333322418, -0.00019841269829812397,
                          2.7557313693578773e-06, -2.505075838529678e-08, 1.5896811850638214e-10);
    }
    return fused(x * z, rest, x);
}
template <class V> INLINE V cosine_in_octant(V x) {
    V z = x * x, rest;
    if constexpr (sizeof(x[0]) == 4) {
        rest = polynomial(z, 0.0416666456f, -0.00138873677f, 2.44384155e-05f);
    } else {
        rest = polynomial(z, 0.0416666666666666, -0.0013888888888874131, 2.4801587289487056e-05,
                          -2.7557314353801864e-07, 2.0875723480806275e-09, -1.1359658937542673e-11);
    }
    return fused(z * z, rest, fused(V{} - 0.5f, z, V{} + 1));
}
LIFT(sine_in_octant, sine_in_octant)
LIFT(cosine_in_octant, cosine_in_octant)

// x with its sign flipped where the highest bit of a word is set.
template <int n> INLINE Lanes<float, n> flip(Lanes<float, n> x, Lanes<uint32_t, n> word) {
    if constexpr (n > 1) return {flip(x.lo, word.lo), flip(x.hi, word.hi)};
    else return {(FloatRegister)((WordRegister)x.v ^ (word.v & 0x80000000))};
}
INLINE D flip(D x, U word) { return select(as_signed(word) < full<I>(0), -x, x); }

INLINE void signed_to(I x, F& y) { y = to_f(x); }
INLINE void signed_to(I x, D& y) { y = to_d(x); }

// The lowest 30 bits, as a signed number, are the angle from the nearest of the four axes; the highest two bits of
// word + 2**29 say which axis that is. Nothing is lost, unlike in the reduction of a rounded angle.
template <class V> INLINE void box_muller(U one, U other, V& a, V& b) {
    V angle;
    signed_to(as_signed(other << 2), angle);
    angle = fma(angle, full<V>(0x1.921fb54442d18p-32), full<V>(0x1.921fb54442d18p-31));
    V sine = sine_in_octant(angle), cosine = cosine_in_octant(angle), r = radius(one, a);
    U axis = other + full<U>(1u << 29);
    B is_odd = as_signed(axis << 1) < full<I>(0);
    a = r * flip(select(is_odd, sine, cosine), axis ^ (axis << 1));
    b = r * flip(select(is_odd, cosine, sine), axis);
}

// Within 1e-6 of the exact value (6.8 at most).
INLINE void normals(U one, U other, F& a, F& b) { box_muller(one, other, a, b); }
// Within 1e-14 of the radius.
INLINE void normals(U one, U other, D& a, D& b) { box_muller(one, other, a, b); }

struct Normals {
    template <class V> INLINE void make(U one, U other, V& a, V& b) { normals(one, other, a, b); }
};
struct Uniforms {
    INLINE void make(U one, U other, D& a, D& b) { a = uniform(one), b = uniform(other); }
};

template <class Kind, class V> INLINE void pair_of(const uint32_t* key, U chain, U count, V& a, V& b) {
    threefry(key[0], key[1], chain, count);
    Kind::make(chain, count, a, b);
}

// Numbers of a site with this key, in pairs; `count` is that of the first pair, from the first step's on. A chain that
// is alone, and so in all lanes, has as many pairs made at once as there are lanes.
template <class Kind, class V>
INLINE void noise_along(const uint32_t* key, U chain, uint32_t count, int64_t pairs, V* to) {
    for (int64_t i = 0; i < pairs; i += ALONE ? LANES : 1) {
        U counts = full<U>(count + (uint32_t)i);
        if constexpr (ALONE) {
            V a, b;
            pair_of<Kind>(key, chain, counts + as_words(lane_numbers(LANES)), a, b);
            typename V::Memory all[2][LANES];
            store_all(all[0], a);
            store_all(all[1], b);
            for (int64_t j = 0; j < LANES && i + j < pairs; ++j) {
                to[2 * (i + j)] = full<V>(all[0][j]);
                to[2 * (i + j) + 1] = full<V>(all[1][j]);
            }
        } else {
            pair_of<Kind>(key, chain, counts, to[2 * i], to[2 * i + 1]);
        }
    }
}

// The same for numbers that have names of their own.
template <class Kind, class V, class... More>
INLINE void noise_of(const uint32_t* key, U chain, uint32_t count, V& a, V& b, More&... more) {
    if constexpr (ALONE && sizeof...(more) > 0) {
        V all[2 + sizeof...(more)];
        noise_along<Kind>(key, chain, count, 1 + sizeof...(more) / 2, all);
        const V* next = all;
        a = *next++, b = *next++;
        ((more = *next++), ...);
    } else {
        pair_of<Kind>(key, chain, full<U>(count), a, b);
        if constexpr (sizeof...(more) > 0) noise_of<Kind>(key, chain, count + 1, more...);
    }
}

// Number i of index k of an indexed site: every step and index have a key of their own, which chains share where they
// share the index.
template <int i, class W> INLINE D uniform_by_key(W one, W other, U chain) {
    U count = full<U>(i / 2);
    threefry(one, other, chain, count);
    return uniform(i % 2 ? count : chain);
}
template <int i> INLINE D uniform_at(const uint32_t* key, int64_t step, int32_t k, U chain) {
    uint32_t one = step, other = k;
    threefry(key[0], key[1], one, other);
    return uniform_by_key<i>(one, other, chain);
}
template <int i> INLINE D uniform_at(const uint32_t* key, int64_t step, I k, U chain) {
    U one = full<U>((uint32_t)step), other = as_words(k);
    threefry(key[0], key[1], one, other);
    return uniform_by_key<i>(one, other, chain);
}

}  // namespace
