// HMC, MALA and ULA on the densities of the plane, as one would write them by hand for these very cells: the limit that
// no program for any energy and any kernel is expected to reach.
//
// The text is compiled behind the native engine's runtime.hpp, whose vectors, elementary functions and generator it
// uses, and calls `ALGORITHM<DENSITY>`. What a general program cannot know is made use of: gradients are simplified by
// hand, decisions are made in float32, accepted moves are counted instead of adding up their probabilities, divergences
// are not told, and every second number of the generator for decisions is kept for the next step.

namespace {

INLINE F number(float value) { return full<F>(value); }

struct Gaussian {  // covariance ((1, 0.8), (0.8, 1))
    INLINE F value_and_grad(F x, F y, F& gx, F& gy) {
        const F straight = number(1 / 0.36f), across = number(-0.8f / 0.36f);
        gx = fma(straight, x, across * y);
        gy = fma(straight, y, across * x);
        return number(0.5f) * fma(x, gx, y * gy);
    }
};

struct Banana {
    INLINE F value_and_grad(F x, F y, F& gx, F& gy) {
        const F bend = fma(-x, x, y), shift = x - number(1), pull = number(0.1f) * shift;
        gy = number(10) * bend;
        gx = fma(number(-2) * x, gy, pull);
        return number(0.5f) * fma(gy, bend, pull * shift);
    }
};

struct Ring {  // eight normals of variance 1/4 at radius 4, taken as they come: their symmetry is nobody's to use
    INLINE F value_and_grad(F x, F y, F& gx, F& gy) {
        constexpr float near = 2.8284271f, means[8][2] = {{4, 0},  {near, near},   {0, 4},  {-near, near},
                                                          {-4, 0}, {-near, -near}, {0, -4}, {near, -near}};
        F squares[8], least;
        for (int k = 0; k < 8; ++k) {
            const F dx = x - number(means[k][0]), dy = y - number(means[k][1]);
            squares[k] = fma(dx, dx, dy * dy);
            least = k == 0 ? squares[k] : select(squares[k] < least, squares[k], least);
        }
        F total = number(0), mean_x = number(0), mean_y = number(0);
        for (int k = 0; k < 8; ++k) {
            const F weight = exp_(number(2) * (least - squares[k]));
            total = total + weight;
            mean_x = fma(weight, number(means[k][0]), mean_x);
            mean_y = fma(weight, number(means[k][1]), mean_y);
        }
        const F share = number(1) / total;
        gx = number(4) * fma(-share, mean_x, x);
        gy = number(4) * fma(-share, mean_y, y);
        return fma(number(2), least, -log_(total));
    }
};

struct Place {  // where a block of chains stands
    F x, y, energy, gx, gy;
};

template <class Density> INLINE Place at(F x, F y) {
    Place place{x, y, x, x, y};
    place.energy = Density::value_and_grad(x, y, place.gx, place.gy);
    return place;
}

// Where the draws of a block of chains come from.
struct Draws {
    const uint32_t* keys;  // two words for normals, two for decisions
    U chain, spare;        // the word for a decision in an odd step
};

INLINE void normals_of(const Draws& draws, int64_t step, F& one, F& other) {
    U first = draws.chain, second = full<U>(uint32_t(step));
    threefry(draws.keys[0], draws.keys[1], first, second);
    normals(first, second, one, other);
}

INLINE U refilled(Draws& draws, int64_t step) {
    U word = draws.chain;
    draws.spare = full<U>(uint32_t(step / 2));
    threefry(draws.keys[2], draws.keys[3], word, draws.spare);
    return word;
}

// Whether to accept; never where the log ratio is NaN.
INLINE B accepts(F log_ratio, Draws& draws, int64_t step) {
    const U word = step % 2 == 0 ? refilled(draws, step) : draws.spare;
    const F uniform = fma(to_f(as_signed(word ^ full<U>(0x80000000))), number(0x1p-32f), number(0.5f));
    return uniform < exp_(log_ratio);
}

INLINE Place decide(const Place& from, const Place& to, B moves, I& num_moves) {
    num_moves = num_moves + to_i(moves);
    return {select(moves, to.x, from.x), select(moves, to.y, from.y), select(moves, to.energy, from.energy),
            select(moves, to.gx, from.gx), select(moves, to.gy, from.gy)};
}

template <class Density> INLINE Place hmc(const Place& from, Draws& draws, int64_t step, float h, I& num_moves) {
    F px, py;
    normals_of(draws, step, px, py);
    const F kinetic = fma(px, px, py * py), time = number(h), half = number(-0.5f * h);
    F x = from.x, y = from.y, gx, gy;
    px = fma(half, from.gx, px), py = fma(half, from.gy, py);
    for (int leapfrog = 1; leapfrog < NUM_LEAPFROG_STEPS; ++leapfrog) {
        x = fma(time, px, x), y = fma(time, py, y);
        Density::value_and_grad(x, y, gx, gy);
        px = fma(-time, gx, px), py = fma(-time, gy, py);
    }
    const Place to = at<Density>(fma(time, px, x), fma(time, py, y));
    px = fma(half, to.gx, px), py = fma(half, to.gy, py);
    const F change = from.energy - to.energy;
    const F log_ratio = fma(number(0.5f), kinetic - fma(px, px, py * py), change);
    return decide(from, to, accepts(log_ratio, draws, step), num_moves);
}

template <class Density> INLINE Place langevin(const Place& from, F u, F v, float h) {
    const F scale = number(__builtin_sqrtf(2 * h)), drift = number(-h);
    return at<Density>(fma(scale, u, fma(drift, from.gx, from.x)), fma(scale, v, fma(drift, from.gy, from.y)));
}

template <class Density> INLINE Place mala(const Place& from, Draws& draws, int64_t step, float h, I& num_moves) {
    F u, v;
    normals_of(draws, step, u, v);
    const Place to = langevin<Density>(from, u, v, h);
    const F half = number(0.5f * __builtin_sqrtf(2 * h));  // the noise that leads back is that of u and v reversed
    const F back_u = fma(half, from.gx + to.gx, -u), back_v = fma(half, from.gy + to.gy, -v);
    const F change = fma(u, u, v * v) - fma(back_u, back_u, back_v * back_v);
    const F log_ratio = fma(number(0.5f), change, from.energy - to.energy);
    return decide(from, to, accepts(log_ratio, draws, step), num_moves);
}

template <class Density> INLINE Place ula(const Place& from, Draws& draws, int64_t step, float h, I& num_moves) {
    F u, v;
    normals_of(draws, step, u, v);
    const Place to = langevin<Density>(from, u, v, h);
    return decide(from, to, is_finite(to.energy), num_moves);
}

}  // namespace

// Moves the chains at x and y, whose number is a multiple of LANES, from first_step to last_step with step size h.
// moves: of each chain, how many steps were accepted; added to.
extern "C" void run(float* x, float* y, int32_t* moves, const uint32_t* keys, int64_t chains, int64_t first_step,
                    int64_t last_step, float h) {
    for (int64_t o = 0; o < chains; o += LANES) {
        Place place = at<DENSITY>(load<F>(x + o), load<F>(y + o));
        I numbers = lane_numbers(LANES) + full<I>(int32_t(o)), num_moves = load<I>(moves + o);
        Draws draws{keys, load<U>((const uint32_t*)&numbers), full<U>(0)};
        refilled(draws, first_step);  // which may be odd
        for (int64_t step = first_step; step < last_step; ++step) {
            place = ALGORITHM<DENSITY>(place, draws, step, h, num_moves);
        }
        store_all(x + o, place.x);
        store_all(y + o, place.y);
        store_all(moves + o, num_moves);
    }
}
