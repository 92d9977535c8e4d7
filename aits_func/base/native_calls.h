// How the function `run` of a program is called: once, several times in turn, or for several members side by side.
//
// in, out: arrays of pointers, INS and OUTS of them. Steps are bytes from one call to the next. Every thread that calls
// `run` has WORDS of memory to itself.

static const void *moved(const void *p, long bytes) { return (const char *)p + bytes; }
static void *moved(void *p, long bytes) { return (char *)p + bytes; }

extern "C" void once(const void *const *in, void *const *out, real *memory, int threads) {
  run(in, out, memory, threads, 0, CHUNKS);
}

struct Turns {
  const void *const *in;
  void *const *out, *const *spare;
  const long *in_steps, *out_steps;
  long carried, count;
};
// The first `carried` results of a call are the first arguments of the next. They are written to `out` and `spare` by
// turns, so that those of the last call lie in `out`.
static void take_turns(const Turns &t, real *memory, int threads, long first, long last) {
  const void *from[INS + 1];
  void *to[OUTS + 1];
  for (long k = 0; k < t.count; k++) {
    void *const *target = (t.count - 1 - k) % 2 ? t.spare : t.out, *const *left = (t.count - k) % 2 ? t.spare : t.out;
    for (long i = 0; i < INS; i++) from[i] = i < t.carried && k ? left[i] : moved(t.in[i], k * t.in_steps[i]);
    for (long i = 0; i < OUTS; i++) to[i] = i < t.carried ? target[i] : moved(t.out[i], k * t.out_steps[i]);
    run(from, to, memory, threads, first, last);
  }
}
// Chunks that have nothing to do with each other go through all calls one by one, and stay in the cache meanwhile.
extern "C" void in_turn(const void *const *in, void *const *out, void *const *spare, const long *in_steps,
                        const long *out_steps, long carried, real *memory, int threads, long count) {
  const Turns turns = {in, out, spare, in_steps, out_steps, carried, count};
  if (!INDEPENDENT) {
    take_turns(turns, memory, threads, 0, CHUNKS);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1 && CHUNKS > 1)
  for (long c = 0; c < CHUNKS; c++) take_turns(turns, memory + omp_get_thread_num() * WORDS, 1, c, c + 1);
}

extern "C" void side_by_side(const void *const *in, void *const *out, const long *in_steps, const long *out_steps,
                             real *memory, int threads, long count) {
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1 && count > 1)
  for (long k = 0; k < count; k++) {
    const void *from[INS + 1];
    void *to[OUTS + 1];
    for (long i = 0; i < INS; i++) from[i] = moved(in[i], k * in_steps[i]);
    for (long i = 0; i < OUTS; i++) to[i] = moved(out[i], k * out_steps[i]);
    run(from, to, memory + omp_get_thread_num() * WORDS, 1, 0, CHUNKS);
  }
}
