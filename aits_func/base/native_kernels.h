// What the programs of native_source are written with: vectors of one value per system, and loops over rows.
//
// REAL is float or double, and every word in memory is as wide as that; a mask is a vector of whole words, all bits set
// or none. Only these functions may contract a product and a sum (`fma`); elsewhere one operation is one rounding.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>

#if defined(__AVX512F__)
#define BYTES 64
#define COLUMNS 4  // vectors of a row that a product keeps in registers, for six rows
#elif defined(__AVX__)
#define BYTES 32
#define COLUMNS 2
#else
#define BYTES 16
#define COLUMNS 2
#endif
#define INLINE static inline __attribute__((always_inline))

typedef REAL real;
#if IS_DOUBLE
typedef int64_t word;
#else
typedef int32_t word;
#endif
constexpr long V = BYTES / sizeof(real);
typedef real vr __attribute__((vector_size(BYTES)));
typedef word vm __attribute__((vector_size(BYTES)));  // masks, and whole numbers
typedef real vr_anywhere __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
typedef word vm_anywhere __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

// --- numbers and vectors ---------------------------------------------------------------------------------------------

INLINE vr all(real x) { return x - vr{}; }  // and not 0 + x, which makes 0 of -0
INLINE vm all(bool x) { return vm{} - word(x); }
INLINE vm all(int64_t x) { return vm{} + word(x); }
INLINE vr bits(vm x) { vr y; memcpy(&y, &x, BYTES); return y; }
INLINE vm bits(vr x) { vm y; memcpy(&y, &x, BYTES); return y; }

// m of V values; the others repeat the first, so that they are nothing unusual.
INLINE vr load(const real *p, long m) {
  if (m == V) return *(const vr_anywhere *)p;
  vr x = all(p[0]);
  for (long i = 1; i < m; i++) x[i] = p[i];
  return x;
}
INLINE vm load(const int64_t *p, long m) {
  vm x = all(p[0]);
  for (long i = 1; i < V; i++) x[i] = word(i < m ? p[i] : p[0]);
  return x;
}
INLINE vm load(const bool *p, long m) {
  vm x = all(p[0]);
  for (long i = 1; i < V; i++) x[i] = -word(i < m ? p[i] : p[0]);
  return x;
}
INLINE void store(real *p, vr x, long m) {
  if (m == V) *(vr_anywhere *)p = x;
  else for (long i = 0; i < m; i++) p[i] = x[i];
}
INLINE void store(int64_t *p, vm x, long m) { for (long i = 0; i < m; i++) p[i] = x[i]; }
INLINE void store(bool *p, vm x, long m) { for (long i = 0; i < m; i++) p[i] = x[i] != 0; }
// Whole vectors in memory of our own.
INLINE vr fetch(const real *p) { return *(const vr_anywhere *)p; }
INLINE vm fetch_words(const real *p) { return *(const vm_anywhere *)p; }
INLINE void keep(real *p, vr x) { *(vr_anywhere *)p = x; }
INLINE void keep(real *p, vm x) { *(vm_anywhere *)p = x; }
INLINE vr column(const real *p, long step) {
  vr x;
  for (long i = 0; i < V; i++) x[i] = p[i * step];
  return x;
}
INLINE vm column_words(const real *p, long step) {
  vm x;
  for (long i = 0; i < V; i++) memcpy((word *)&x + i, p + i * step, sizeof(word));
  return x;
}
INLINE bool is_set(const real *p) {
  word x;
  memcpy(&x, p, sizeof(word));
  return x != 0;
}
INLINE void scatter(real *p, long step, vr x) { for (long i = 0; i < V; i++) p[i * step] = x[i]; }
INLINE vm all_words(const real *p) {
  word x;
  memcpy(&x, p, sizeof(word));
  return vm{} + x;
}
INLINE vm before(long m) {  // the first m of V
  vm x;
  for (long i = 0; i < V; i++) x[i] = -word(i < m);
  return x;
}

INLINE vr where(vm mask, vr x, vr y) { return mask ? x : y; }
INLINE vm where(vm mask, vm x, vm y) { return (mask & x) | (~mask & y); }
template <class T> INLINE T where(bool mask, T x, T y) { return mask ? x : y; }
// A number that is not one wins, as in torch.
INLINE vr max(vr x, vr y) { return ((x > y) | (x != x)) ? x : y; }
INLINE vr min(vr x, vr y) { return ((x < y) | (x != x)) ? x : y; }
INLINE vm max(vm x, vm y) { return where(vm(x > y), x, y); }
INLINE vm min(vm x, vm y) { return where(vm(x < y), x, y); }
INLINE real max(real x, real y) { return x > y || x != x ? x : y; }
INLINE real min(real x, real y) { return x < y || x != x ? x : y; }
INLINE int64_t max(int64_t x, int64_t y) { return x > y ? x : y; }
INLINE int64_t min(int64_t x, int64_t y) { return x < y ? x : y; }
INLINE vr absolute(vr x) { return bits(bits(x) & ~bits(all(real(-0.0)))); }
INLINE vm absolute(vm x) { return where(vm(x < 0), -x, x); }
INLINE real absolute(real x) { return std::fabs(x); }
INLINE int64_t absolute(int64_t x) { return x < 0 ? -x : x; }
INLINE vm negated(vm x) { return ~x; }
INLINE bool negated(bool x) { return !x; }
INLINE int64_t negated(int64_t x) { return ~x; }
INLINE vr real_of_mask(vm x) { return bits(x & bits(all(real(1)))); }
INLINE real real_of_mask(bool x) { return x; }
INLINE vm int_of_mask(vm x) { return -x; }
INLINE int64_t int_of_mask(bool x) { return x; }
INLINE vr real_of_int(vm x) { return __builtin_convertvector(x, vr); }
INLINE real real_of_int(int64_t x) { return real(x); }
INLINE vm int_of_real(vr x) { return __builtin_convertvector(x, vm); }
INLINE int64_t int_of_real(real x) { return int64_t(x); }
INLINE vm mask_of_int(vm x) { return x != 0; }
INLINE bool mask_of_int(int64_t x) { return x != 0; }
INLINE vm mask_of_real(vr x) { return x != 0; }
INLINE bool mask_of_real(real x) { return x != 0; }

// --- functions -------------------------------------------------------------------------------------------------------

#ifndef __has_builtin
#define __has_builtin(x) 0
#endif
INLINE vr fma(vr x, vr y, vr z) {
#if __has_builtin(__builtin_elementwise_fma)
  return __builtin_elementwise_fma(x, y, z);
#elif defined(__AVX512F__) && IS_DOUBLE
  return __builtin_ia32_vfmaddpd512_mask(x, y, z, (unsigned char)-1, 4);
#elif defined(__AVX512F__)
  return __builtin_ia32_vfmaddps512_mask(x, y, z, (unsigned short)-1, 4);
#elif defined(__FMA__) && IS_DOUBLE
  return __builtin_ia32_vfmaddpd256(x, y, z);
#elif defined(__FMA__)
  return __builtin_ia32_vfmaddps256(x, y, z);
#else
  return x * y + z;
#endif
}
INLINE vr fma(vr x, vr y, real z) { return fma(x, y, all(z)); }

// exp(x) = 2ⁿ exp(r), |r| ≤ ln 2 / 2, with ln 2 in two pieces (Cody & Waite 1980), and a Taylor series for exp(r).
#if IS_DOUBLE
constexpr real LN2_HIGH = 0x1.62e42fee00000p-1, LN2_LOW = 0x1.a39ef35793c76p-33, SHIFT = 0x1.8p52;
constexpr real EXP_MOST = 710, EXP_LEAST = -746;
constexpr int TERMS = 13, MANTISSA = 52, BIAS = 1023;
#else
constexpr real LN2_HIGH = 0x1.62e400p-1, LN2_LOW = 0x1.7f7d1cp-20, SHIFT = 0x1.8p23;
constexpr real EXP_MOST = 89, EXP_LEAST = -104;
constexpr int TERMS = 7, MANTISSA = 23, BIAS = 127;
#endif
constexpr double INVERSE_FACTORIAL[] = {1., 1., 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320,
    1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800.};

struct Reduced { vr rest; vm whole; };
INLINE Reduced reduced(vr x) {
  vr shifted = fma(x, all(real(1.4426950408889634)), SHIFT), whole = shifted - SHIFT;
  vr rest = fma(whole, all(-LN2_LOW), fma(whole, all(-LN2_HIGH), x));
  return {rest, bits(shifted) - bits(all(SHIFT))};
}
INLINE vr power_of_two(vm n) { return bits((n + BIAS) << MANTISSA); }
// Σ rᵏ⁻ˡᵃˢᵗ / k! from k = last on; even and odd powers apart, so that neither sum waits for the other.
INLINE vr series(vr r, int last) {
  vr square = r * r, one = all(real(INVERSE_FACTORIAL[TERMS])), other = all(real(INVERSE_FACTORIAL[TERMS - 1]));
  for (int k = TERMS - 2; k >= last; k -= 2) one = fma(one, square, real(INVERSE_FACTORIAL[k]));
  for (int k = TERMS - 3; k >= last; k -= 2) other = fma(other, square, real(INVERSE_FACTORIAL[k]));
  return (TERMS - last) % 2 ? fma(one, r, other) : fma(other, r, one);
}
static __attribute__((noinline)) vr exponential(vr x) {
  x = x > EXP_MOST ? all(EXP_MOST) : x;
  x = x < EXP_LEAST ? all(EXP_LEAST) : x;
  Reduced y = reduced(x);
  vm half = y.whole >> 1;  // in two factors: 2ⁿ alone may be too large or too small
  return series(y.rest, 0) * power_of_two(half) * power_of_two(y.whole - half);
}
INLINE real exponential(real x) { return std::exp(x); }

// tanh x = e/(e + 2), e = exp(2x) − 1 = 2ⁿ(exp(r) − 1) + (2ⁿ − 1): no digit is lost near 0, where n = 0.
INLINE vr hyperbolic_tangent(vr x) {
  vr y = 2 * x;
  y = y > 40 ? all(real(40)) : y;  // 1 to the last digit beyond 20
  y = y < -40 ? all(real(-40)) : y;
  Reduced z = reduced(y);
  vr power = power_of_two(z.whole);
  vr e = fma(power, z.rest * series(z.rest, 1), power - 1);
  return bits(bits(e / (e + 2)) | (bits(x) & bits(all(real(-0.0)))));  // that of -0 is -0
}
INLINE real hyperbolic_tangent(real x) { return std::tanh(x); }

// log(2ᵏ(1 + f)) with 1 + f in [√½, √2): log(1 + f) = 2 artanh(s), s = f/(2 + f), by its series.
static __attribute__((noinline)) vr logarithm(vr x) {
#if IS_DOUBLE
  constexpr word ROOT = 0x3fe6a09e667f3bcd;
  constexpr real SMALLEST = 0x1p-1022, SCALE = 0x1p54;
  constexpr word SCALED = 54;
  constexpr int LAST = 23;
#else
  constexpr word ROOT = 0x3f3504f3;
  constexpr real SMALLEST = 0x1p-126f, SCALE = 0x1p25f;
  constexpr word SCALED = 25;
  constexpr int LAST = 9;
#endif
  vm tiny = x < SMALLEST;
  vr scaled = tiny ? x * SCALE : x;
  vm k = (bits(scaled) - ROOT) >> MANTISSA;
  vr f = bits(bits(scaled) - (k << MANTISSA)) - 1;
  k -= tiny & SCALED;
  vr exponent = bits(k + bits(all(SHIFT))) - SHIFT;
  vr s = f / (f + 2), square = s * s, half = real(0.5) * f * f;
  vr sum = all(real(2.0 / LAST));
  for (int n = LAST - 2; n >= 3; n -= 2) sum = fma(sum, square, real(2.0 / n));
  vr rest = s * fma(square, sum, half);
  vr result = fma(exponent, all(LN2_HIGH), f - (half - fma(exponent, all(LN2_LOW), rest)));
  result = x == INFINITY ? x : result;
  result = x == 0 ? all(real(-INFINITY)) : result;
  return ((x < 0) | (x != x)) ? all(real(NAN)) : result;
}
INLINE real logarithm(real x) { return std::log(x); }

INLINE vr root(vr x) {
  for (long i = 0; i < V; i++) x[i] = std::sqrt(x[i]);
  return x;
}
INLINE real root(real x) { return std::sqrt(x); }
#define ONE_BY_ONE(name, function) \
  static __attribute__((noinline)) vr name(vr x) { for (long i = 0; i < V; i++) x[i] = function(x[i]); return x; } \
  INLINE real name(real x) { return function(x); }
ONE_BY_ONE(sine, std::sin)
ONE_BY_ONE(cosine, std::cos)
static __attribute__((noinline)) vr power(vr x, vr y) {
  for (long i = 0; i < V; i++) x[i] = std::pow(x[i], y[i]);
  return x;
}
INLINE real power(real x, real y) { return std::pow(x, y); }
INLINE int64_t power(int64_t x, int64_t y) {
  if (y < 0) return x == 1 ? 1 : (x == -1 ? (y % 2 ? -1 : 1) : 0);
  uint64_t square = x, result = 1;  // what does not fit is cut off, as in torch
  for (; y; y >>= 1, square *= square)
    if (y & 1) result *= square;
  return int64_t(result);
}
INLINE vm power(vm x, vm y) {
  for (long i = 0; i < V; i++) x[i] = word(power(int64_t(x[i]), int64_t(y[i])));
  return x;
}

// --- loops over rows and arrays --------------------------------------------------------------------------------------

// c (M, N) = or += a (M, K) b (K, N), N whole vectors; a element by element at any steps, b and c row by row. Six rows
// of c by COLUMNS vectors stay in registers. If b is PACKED, what belongs to one such block lies behind each other: rows
// far apart would want the same few places of the cache.
template <int ROWS, int COLS, bool ADD>
INLINE void block(const real *a, long am, long ak, const real *b, long bk, real *c, long cm, long K) {
  vr sum[ROWS][COLS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLS; j++) sum[i][j] = ADD ? fetch(c + i * cm + j * V) : vr{};
  for (long k = 0; k < K; k++) {
    vr right[COLS];
    for (int j = 0; j < COLS; j++) right[j] = fetch(b + k * bk + j * V);
    for (int i = 0; i < ROWS; i++) {
      vr left = all(a[i * am + k * ak]);
      for (int j = 0; j < COLS; j++) sum[i][j] = fma(left, right[j], sum[i][j]);
    }
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLS; j++) keep(c + i * cm + j * V, sum[i][j]);
}
template <int COLS, bool ADD>
static void panel(const real *a, long am, long ak, const real *b, long bk, real *c, long cm, long M, long K) {
  long i = 0;
#define NEXT(ROWS) block<ROWS, COLS, ADD>(a + i * am, am, ak, b, bk, c + i * cm, cm, K), i += ROWS
  while (M - i > 8 || M - i == 6) NEXT(6);
  while (M - i >= 4) NEXT(4);
  switch (M - i) {
    case 3: NEXT(3); break;
    case 2: NEXT(2); break;
    case 1: NEXT(1);
  }
#undef NEXT
}
template <bool ADD, bool PACKED>
static void product(const real *a, long am, long ak, const real *b, long bk, real *c, long cm, long M, long K, long N) {
  long j = 0;
  for (; j + COLUMNS * V <= N; j += COLUMNS * V)
    panel<COLUMNS, ADD>(a, am, ak, PACKED ? b + j * K : b + j, PACKED ? COLUMNS * V : bk, c + j, cm, M, K);
  for (; j < N; j += V) panel<1, ADD>(a, am, ak, PACKED ? b + j * K : b + j, PACKED ? V : bk, c + j, cm, M, K);
}
// A matrix (K, N) at any steps, such as `product` wants it, filled up with zeros.
static void pack(real *out, const real *x, long xk, long xn, long K, long N, long filled) {
  for (long j = 0; j < filled;) {
    const long width = j + COLUMNS * V <= filled ? COLUMNS * V : V;
    for (long k = 0; k < K; k++)
      for (long n = j; n < j + width; n++) *out++ = n < N ? x[k * xk + n * xn] : 0;
    j += width;
  }
}

INLINE real total(vr x) {
  real sum = x[0];
  for (long i = 1; i < V; i++) sum += x[i];
  return sum;
}
// out[l] = rowₗ · vector
static void dot_rows(real *out, const real *rows, long step, const real *vector, long n, long F) {
  long whole = F / V * V;
  for (long l = 0; l < n; l++) {
    const real *row = rows + l * step;
    vr sum = vr{}, other = vr{};
    long f = 0;
    for (; f + 2 * V <= whole; f += 2 * V) {
      sum = fma(fetch(row + f), fetch(vector + f), sum);
      other = fma(fetch(row + f + V), fetch(vector + f + V), other);
    }
    for (; f < whole; f += V) sum = fma(fetch(row + f), fetch(vector + f), sum);
    real result = total(sum + other);
    for (; f < F; f++) result += row[f] * vector[f];
    out[l] = result;
  }
}
static void sum_rows(real *out, const real *rows, long step, long n, long F) {  // out[l] = Σ_f rowₗ
  for (long l = 0; l < n; l++) {
    real sum = rows[l * step];
    for (long f = 1; f < F; f++) sum += rows[l * step + f];
    out[l] = sum;
  }
}
static void sum_batch(real *out, const real *rows, long step, long n, bool first) {  // out[f] = or += Σₗ
  for (long f = 0; f < step; f += V) {
    vr sum = first ? vr{} : fetch(out + f);
    for (long l = 0; l < n; l++) sum += fetch(rows + l * step + f);
    keep(out + f, sum);
  }
}
static real sum_array(const real *x, long size) {
  vr sum = vr{};
  long i = 0;
  for (; i + V <= size; i += V) sum += fetch(x + i);
  real result = total(sum);
  for (; i < size; i++) result += x[i];
  return result;
}
// (M, N) = Σ over chunks, in their order, of what they have in rows of `step`.
static void sum_chunks(real *out, const real *parts, long apart, long chunks, long M, long N, long step) {
  for (long m = 0; m < M; m++) {
    for (long n = 0; n < N; n++) out[m * N + n] = parts[m * step + n];
    for (long c = 1; c < chunks; c++)
      for (long n = 0; n < N; n++) out[m * N + n] += parts[c * apart + m * step + n];
  }
}
static void gather(real *out, const real *x, const long *which, long count, long width) {
  if (width == 1)
    for (long i = 0; i < count; i++) out[i] = x[which[i]];
  else
    for (long i = 0; i < count; i++) memcpy(out + i * width, x + which[i] * width, width * sizeof(real));
}
static void permute(real *out, const real *x, long xm, long xn, long M, long N) {
  for (long m = 0; m < M; m++)
    for (long n = 0; n < N; n++) out[m * N + n] = x[m * xm + n * xn];
}
