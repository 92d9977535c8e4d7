// How the function `run` of a program is called: once, several times in turn, or for several members side by side.
//
// in, out: an array of pointers each, INS and OUTS of them. Steps are bytes from one call to the next.

static const void *moved(const void *p, long bytes) { return (const char *)p + bytes; }
static void *moved(void *p, long bytes) { return (char *)p + bytes; }

extern "C" void once(const void *const *in, void *const *out, real *memory, int threads) {
  run(in, out, memory, threads);
}

// The first `carried` results of a call are the first arguments of the next. They are written to `out` and `spare` by
// turns, so that those of the last call lie in `out`.
extern "C" void in_turn(const void *const *in, void *const *out, void *const *spare, const long *in_steps,
                        const long *out_steps, long carried, real *memory, int threads, long count) {
  const void *from[INS + 1];
  void *to[OUTS + 1];
  for (long k = 0; k < count; k++) {
    void *const *target = (count - 1 - k) % 2 ? spare : out, *const *left = (count - k) % 2 ? spare : out;
    for (long i = 0; i < INS; i++) from[i] = i < carried && k ? left[i] : moved(in[i], k * in_steps[i]);
    for (long i = 0; i < OUTS; i++) to[i] = i < carried ? target[i] : moved(out[i], k * out_steps[i]);
    run(from, to, memory, threads);
  }
}

extern "C" void side_by_side(const void *const *in, void *const *out, const long *in_steps, const long *out_steps,
                             real *memory, int threads, long count) {
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
  for (long k = 0; k < count; k++) {
    const void *from[INS + 1];
    void *to[OUTS + 1];
    for (long i = 0; i < INS; i++) from[i] = moved(in[i], k * in_steps[i]);
    for (long i = 0; i < OUTS; i++) to[i] = moved(out[i], k * out_steps[i]);
    run(from, to, memory + omp_get_thread_num() * WORDS, 1);
  }
}
