// Six algorithms on the densities of the plane, as one would write them by hand for these very cells: the limit that no
// program for any energy and any kernel is expected to reach.
//
// The text is compiled behind the native engine's runtime.hpp, whose vectors, elementary functions and generator it
// uses, and calls `ALGORITHM<DENSITY>`. What a general program cannot know is made use of: gradients are simplified by
// hand, decisions are made in float32, moves are counted instead of adding up their probabilities, divergences are not
// told, weights are not scaled, since no energy here is far from any other, and words of the generator come in pairs,
// of which what one step or leaf leaves over serves the next.

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

struct Place {  // where a block of chains stands; only GHMC and NUTS use the momentum
    F x, y, energy, gx, gy, px, py;
};

template <class Density> INLINE Place at(F x, F y, F px, F py) {
    Place place{x, y, x, x, y, px, py};
    place.energy = Density::value_and_grad(x, y, place.gx, place.gy);
    return place;
}

// Where the draws of a block of chains come from.
struct Draws {
    const uint32_t* keys;  // two words for each kind
    U chain, spare;        // the word for a decision in an odd step
};

INLINE void words_of(const Draws& draws, int kind, int64_t count, U& one, U& other) {
    one = draws.chain, other = full<U>(uint32_t(count));
    threefry(draws.keys[2 * kind], draws.keys[2 * kind + 1], one, other);
}

INLINE void normals_of(const Draws& draws, int64_t step, F& one, F& other) {
    U first, second;
    words_of(draws, 0, step, first, second);
    normals(first, second, one, other);
}

INLINE U refilled(Draws& draws, int64_t step) {
    U word;
    words_of(draws, 1, step / 2, word, draws.spare);
    return word;
}

INLINE F uniform_of(U word) {
    return fma(to_f(as_signed(word ^ full<U>(0x80000000))), number(0x1p-32f), number(0.5f));
}

// A uniform number for a decision, one in each step.
INLINE F uniform_in(Draws& draws, int64_t step) {
    return uniform_of(step % 2 == 0 ? refilled(draws, step) : draws.spare);
}

// Whether to accept; never where the log ratio is NaN.
INLINE B accepts(F log_ratio, Draws& draws, int64_t step) { return uniform_in(draws, step) < exp_(log_ratio); }

INLINE Place either(B first, const Place& one, const Place& other) {
    return {select(first, one.x, other.x),   select(first, one.y, other.y),   select(first, one.energy, other.energy),
            select(first, one.gx, other.gx), select(first, one.gy, other.gy), select(first, one.px, other.px),
            select(first, one.py, other.py)};
}

INLINE Place decide(const Place& from, const Place& to, B moves, I& num_moves) {
    num_moves = num_moves + to_i(moves);
    return either(moves, to, from);
}

INLINE F square_of(F a, F b) { return fma(a, a, b * b); }

// A leapfrog step of a time that chains may differ in.
template <class Density> INLINE Place leapfrog(const Place& from, F time) {
    const F half = number(-0.5f) * time;
    const F px = fma(half, from.gx, from.px), py = fma(half, from.gy, from.py);
    Place to = at<Density>(fma(time, px, from.x), fma(time, py, from.y), px, py);
    to.px = fma(half, to.gx, px), to.py = fma(half, to.gy, py);
    return to;
}

template <class Density> INLINE Place hmc(const Place& from, Draws& draws, int64_t step, float h, I& num_moves) {
    F px, py;
    normals_of(draws, step, px, py);
    const F kinetic = square_of(px, py), time = number(h), half = number(-0.5f * h);
    F x = from.x, y = from.y, gx, gy;
    px = fma(half, from.gx, px), py = fma(half, from.gy, py);
    for (int leapfrog = 1; leapfrog < NUM_LEAPFROG_STEPS; ++leapfrog) {
        x = fma(time, px, x), y = fma(time, py, y);
        Density::value_and_grad(x, y, gx, gy);
        px = fma(-time, gx, px), py = fma(-time, gy, py);
    }
    const Place to = at<Density>(fma(time, px, x), fma(time, py, y), from.px, from.py);
    px = fma(half, to.gx, px), py = fma(half, to.gy, py);
    const F change = from.energy - to.energy;
    const F log_ratio = fma(number(0.5f), kinetic - square_of(px, py), change);
    return decide(from, to, accepts(log_ratio, draws, step), num_moves);
}

template <class Density> INLINE Place langevin(const Place& from, F u, F v, float h) {
    const F scale = number(__builtin_sqrtf(2 * h)), drift = number(-h);
    const F x = fma(scale, u, fma(drift, from.gx, from.x)), y = fma(scale, v, fma(drift, from.gy, from.y));
    return at<Density>(x, y, from.px, from.py);
}

template <class Density> INLINE Place mala(const Place& from, Draws& draws, int64_t step, float h, I& num_moves) {
    F u, v;
    normals_of(draws, step, u, v);
    const Place to = langevin<Density>(from, u, v, h);
    const F half = number(0.5f * __builtin_sqrtf(2 * h));  // the noise that leads back is that of u and v reversed
    const F back_u = fma(half, from.gx + to.gx, -u), back_v = fma(half, from.gy + to.gy, -v);
    const F change = square_of(u, v) - square_of(back_u, back_v);
    const F log_ratio = fma(number(0.5f), change, from.energy - to.energy);
    return decide(from, to, accepts(log_ratio, draws, step), num_moves);
}

template <class Density> INLINE Place ula(const Place& from, Draws& draws, int64_t step, float h, I& num_moves) {
    F u, v;
    normals_of(draws, step, u, v);
    const Place to = langevin<Density>(from, u, v, h);
    return decide(from, to, is_finite(to.energy), num_moves);
}

// A coordinate's move: the sign of z is kept with probability 1 / (1 + odds), odds = exp(z g).
INLINE F signed_move(F z, F gradient, U word, F& odds) {
    odds = exp_(z * gradient);
    const B keeps = fma(uniform_of(word), odds, uniform_of(word)) < number(1);
    odds = select(keeps, odds, number(1) / odds);
    return select(keeps, z, -z);
}

template <class Density> INLINE Place barker(const Place& from, Draws& draws, int64_t step, float h, I& num_moves) {
    F u, v, odds_x, odds_y;
    U one, other;
    normals_of(draws, step, u, v);
    words_of(draws, 2, step, one, other);
    const F scale = number(__builtin_sqrtf(2 * h));
    const F dx = signed_move(scale * u, from.gx, one, odds_x), dy = signed_move(scale * v, from.gy, other, odds_y);
    const Place to = at<Density>(from.x + dx, from.y + dy, from.px, from.py);
    const F back_x = exp_(-dx * to.gx), back_y = exp_(-dy * to.gy), more = number(1);
    const F forth = (more + odds_x) * (more + odds_y), back = (more + back_x) * (more + back_y);
    const F weight = exp_(from.energy - to.energy) * forth;
    return decide(from, to, uniform_in(draws, step) * back < weight, num_moves);
}

template <class Density> INLINE Place ghmc(const Place& from, Draws& draws, int64_t step, float h, I& num_moves) {
    constexpr float kept = PERSISTENCE;
    const F renewed = number(__builtin_sqrtf((1 - kept) * (1 + kept)));
    F u, v;
    normals_of(draws, step, u, v);
    Place start = from;
    start.px = fma(number(kept), from.px, renewed * u), start.py = fma(number(kept), from.py, renewed * v);
    const Place to = leapfrog<Density>(start, number(h));
    const F change = square_of(start.px, start.py) - square_of(to.px, to.py);
    const F log_ratio = fma(number(0.5f), change, from.energy - to.energy);
    start.px = -start.px, start.py = -start.py;  // a chain that stays goes back the way it came
    return decide(start, to, accepts(log_ratio, draws, step), num_moves);
}

struct Sum {  // of momenta
    F x, y;
};

// Whether a stretch of a trajectory moves back towards itself at either of its ends.
INLINE B turns(F ax, F ay, F bx, F by, const Sum& sum) {
    const F half = number(0.5f), x = fma(-half, ax + bx, sum.x), y = fma(-half, ay + by, sum.y);
    return (fma(ax, x, ay * y) <= number(0)) | (fma(bx, x, by * y) <= number(0));
}

// The leaves that chains still grow have the same number for all of them, so that it is one number: whether a leaf
// begins a subtree or ends some, and where what it takes to compare them is kept, hangs on no chain.
template <class Density> INLINE Place nuts(const Place& from, Draws& draws, int64_t step, float h, I& num_moves) {
    Place start = from;
    normals_of(draws, step, start.px, start.py);
    const F total = fma(number(0.5f), square_of(start.px, start.py), start.energy), none = number(0);
    Place back = start, front = start, chosen = start;
    F weight = number(1);
    Sum sum{start.px, start.py};
    B grows = none == none, moved = ~grows;
    for (int depth = 0; depth < MAX_TREE_DEPTH && any(grows); ++depth) {
        U direction, decision, words[2];
        words_of(draws, 1, step * MAX_TREE_DEPTH + depth, direction, decision);
        const B forward = as_signed(direction) < full<I>(0);
        const F time = select(forward, number(h), number(-h));
        Place end = either(forward, front, back), candidate = end;
        F new_weight = none;
        Sum new_sum{none, none}, firsts[MAX_TREE_DEPTH], before[MAX_TREE_DEPTH];
        B going = grows, whole = grows;
        for (uint32_t leaf = 0; leaf < (1u << depth) && any(going); ++leaf) {
            const Place next = leapfrog<Density>(end, time);
            const F error = fma(number(0.5f), square_of(next.px, next.py), next.energy) - total;
            const B holds = error <= number(1000);
            const F added = select(holds, exp_(-error), none);
            if (leaf % 2 == 0) words_of(draws, 2, (step << MAX_TREE_DEPTH | 1 << depth | leaf) / 2, words[0], words[1]);
            new_weight = new_weight + added;
            candidate = either(going & (uniform_of(words[leaf % 2]) * new_weight <= added), next, candidate);
            new_sum.x = new_sum.x + next.px, new_sum.y = new_sum.y + next.py;
            end = either(going, next, end);
            B goes_on = holds;
            const int place = __builtin_popcount(leaf / 2);  // of the subtrees that have begun and not ended
            if (leaf % 2 == 0) {
                firsts[place] = {next.px, next.py};
                before[place] = {new_sum.x - next.px, new_sum.y - next.py};
            }
            for (int ended = 0; leaf >> ended & 1; ++ended) {
                const Sum &first = firsts[place - ended], &less = before[place - ended];
                const Sum within{new_sum.x - less.x, new_sum.y - less.y};
                goes_on = goes_on & ~turns(first.x, first.y, next.px, next.py, within);
            }
            whole = whole & (goes_on | ~going);
            going = going & goes_on;
        }
        const B takes = whole & (uniform_of(decision) * weight <= new_weight);
        chosen = either(takes, candidate, chosen);
        moved = moved | takes;
        weight = weight + new_weight;
        sum.x = sum.x + new_sum.x, sum.y = sum.y + new_sum.y;
        front = either(forward, end, front), back = either(forward, back, end);
        grows = whole & ~turns(back.px, back.py, front.px, front.py, sum);
    }
    return decide(from, chosen, moved, num_moves);
}

}  // namespace

// Moves the chains in `columns`, which are x, y and a momentum for each chain, from first_step to last_step with step
// size h. Their number is a multiple of LANES.
// moves: of each chain, how many steps were accepted; added to.
extern "C" void run(float* columns, int32_t* moves, const uint32_t* keys, int64_t chains, int64_t first_step,
                    int64_t last_step, float h) {
    float *x = columns, *y = x + chains, *px = y + chains, *py = px + chains;
    for (int64_t o = 0; o < chains; o += LANES) {
        Place place = at<DENSITY>(load<F>(x + o), load<F>(y + o), load<F>(px + o), load<F>(py + o));
        I numbers = lane_numbers(LANES) + full<I>(int32_t(o)), num_moves = load<I>(moves + o);
        Draws draws{keys, load<U>((const uint32_t*)&numbers), full<U>(0)};
        refilled(draws, first_step);  // which may be odd
        for (int64_t step = first_step; step < last_step; ++step) {
            place = ALGORITHM<DENSITY>(place, draws, step, h, num_moves);
        }
        store_all(x + o, place.x);
        store_all(y + o, place.y);
        store_all(px + o, place.px);
        store_all(py + o, place.py);
        store_all(moves + o, num_moves);
    }
}
