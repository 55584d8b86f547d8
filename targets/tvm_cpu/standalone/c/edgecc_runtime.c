/* Run a generated model: check what the caller gives, and call the kernels in order on one or more threads.
 *
 * Every thread goes through all steps and computes its own contiguous part of each. Between two steps they meet at a
 * barrier, unless the first thread alone computes both. Who waits spins a little, then yields its core, then sleeps.
 */
#include "edgecc_internal.h"

#include <stdatomic.h>

/* Declared here, because Android's compiler in use has no headers of its C library. A pthread_t is one word everywhere. */
extern void *memset(void *, int, size_t);
extern int sched_yield(void);
extern long syscall(long, ...);
extern int pthread_create(uintptr_t *, const void *, void *(*)(void *), void *);
extern int pthread_join(uintptr_t, void **);

enum { SPINS = 4000, YIELDS = 100, MESSAGE = 200 };

typedef struct {
  edgecc_instance *instance;
  uintptr_t thread;
  int32_t number;
} worker;

struct edgecc_instance {
  const edgecc_model *model;
  int64_t *sizes;
  void **inputs, **outputs;
  char *arena;
  worker *workers;
  int32_t threads; /* that run, the caller's included */
  int32_t quit;
  atomic_int busy;
  atomic_uint arrived, generation, sleepers;
  char message[MESSAGE];
};

/* ---- messages */

static edgecc_status say(edgecc_instance *m, edgecc_status status, const char *text) {
  char *to = m->message, *end = m->message + MESSAGE - 1;
  while (*text && to < end) *to++ = *text++;
  *to = 0;
  return status;
}

static void more(edgecc_instance *m, const char *text) {
  char *to = m->message;
  while (*to) to++;
  while (*text && to < m->message + MESSAGE - 1) *to++ = *text++;
  *to = 0;
}

static void number(edgecc_instance *m, int64_t value) {
  char text[24], *at = text + sizeof text - 1;
  uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
  *at = 0;
  do *--at = (char)('0' + rest % 10);
  while (rest /= 10);
  if (value < 0) *--at = '-';
  more(m, at);
}

static edgecc_status wrong(edgecc_instance *m, edgecc_status status, const edgecc_port *port, const char *text) {
  say(m, status, port->name);
  more(m, " ");
  more(m, text);
  return status;
}

static edgecc_status wrong_size(edgecc_instance *m, const edgecc_port *port, int32_t axis, int64_t found) {
  wrong(m, EDGECC_SHAPE, port, "has size ");
  number(m, found);
  more(m, " at axis ");
  number(m, axis);
  more(m, ", want ");
  if (port->symbols[axis][0]) {
    more(m, port->symbols[axis]);
    more(m, " in ");
  }
  number(m, port->lower[axis]);
  if (port->upper[axis] != port->lower[axis]) {
    more(m, "..");
    number(m, port->upper[axis]);
  }
  return EDGECC_SHAPE;
}

const char *edgecc_status_text(int32_t status) {
  static const char *const texts[] = {
      "ok",
      "a pointer is null",
      "memory is not aligned to 64 bytes",
      "the number of inputs or outputs is wrong",
      "a tensor has the wrong type",
      "a tensor has the wrong shape",
      "memory is too small",
      "an output overlaps another tensor",
      "the thread count is out of bounds, or a thread could not be started",
      "the instance is running",
      "the model was made for another version of the interface",
  };
  return status >= 0 && status < (int32_t)(sizeof texts / sizeof *texts) ? texts[status] : "unknown status";
}

const char *edgecc_model_error(const edgecc_instance *m) { return m ? m->message : "the instance is null"; }

/* ---- descriptions */

int32_t edgecc_model_inputs(const edgecc_model *model) { return model ? model->inputs_count : 0; }
int32_t edgecc_model_outputs(const edgecc_model *model) { return model ? model->outputs_count : 0; }
const edgecc_port *edgecc_model_input(const edgecc_model *model, int32_t i) {
  return model && i >= 0 && i < model->inputs_count ? &model->inputs[i] : NULL;
}
const edgecc_port *edgecc_model_output(const edgecc_model *model, int32_t i) {
  return model && i >= 0 && i < model->outputs_count ? &model->outputs[i] : NULL;
}

static size_t dtype_bytes(int32_t dtype) {
  static const unsigned char bytes[] = {4, 8, 2, 2, 1, 1, 2, 4, 8, 1};
  return bytes[dtype];
}

/* ---- checks */

static int64_t size_of(const edgecc_instance *m, int32_t port, const edgecc_port *of, int32_t axis) {
  return of->dims[axis] < 0 ? m->model->size(m->sizes, port, axis) : of->dims[axis];
}

/* Rank, type and bounds: what can be said of a tensor alone. */
static edgecc_status check_alone(edgecc_instance *m, const edgecc_tensor *t, const edgecc_port *port) {
  if (t->dtype != port->dtype) return wrong(m, EDGECC_DTYPE, port, "has the wrong type");
  if (t->rank != port->rank) {
    wrong(m, EDGECC_SHAPE, port, "has rank ");
    number(m, t->rank);
    more(m, ", want ");
    number(m, port->rank);
    return EDGECC_SHAPE;
  }
  if (t->rank && !t->shape) return wrong(m, EDGECC_NULL, port, "has a null shape");
  for (int32_t a = 0; a < t->rank; a++)
    if (t->shape[a] < port->lower[a] || t->shape[a] > port->upper[a]) return wrong_size(m, port, a, t->shape[a]);
  return EDGECC_OK;
}

static edgecc_status check_sizes(edgecc_instance *m, const edgecc_tensor *t, int32_t number_of, const edgecc_port *port) {
  for (int32_t a = 0; a < t->rank; a++) {
    int64_t want = size_of(m, number_of, port, a);
    if (t->shape[a] == want) continue;
    wrong_size(m, port, a, t->shape[a]);
    more(m, ", which is ");
    number(m, want);
    more(m, " here");
    return EDGECC_SHAPE;
  }
  return EDGECC_OK;
}

static size_t bytes_of(const edgecc_tensor *t) {
  size_t bytes = dtype_bytes(t->dtype);
  for (int32_t a = 0; a < t->rank; a++) bytes *= (size_t)t->shape[a];
  return bytes;
}

static edgecc_status check_memory(edgecc_instance *m, const edgecc_tensor *t, const edgecc_port *port) {
  if (!t->data) return wrong(m, EDGECC_NULL, port, "has null data");
  if ((uintptr_t)t->data % EDGECC_ALIGNMENT) return wrong(m, EDGECC_UNALIGNED, port, "is not aligned to 64 bytes");
  if (t->bytes >= bytes_of(t)) return EDGECC_OK;
  wrong(m, EDGECC_MEMORY, port, "has ");
  number(m, (int64_t)t->bytes);
  more(m, " bytes, want ");
  number(m, (int64_t)bytes_of(t));
  return EDGECC_MEMORY;
}

/* Take the dynamic sizes from the inputs, and check all of them. */
static edgecc_status bind(edgecc_instance *m, const edgecc_tensor *inputs, int32_t count) {
  const edgecc_model *model = m->model;
  edgecc_status status;
  if (count != model->inputs_count) return say(m, EDGECC_COUNT, "the number of inputs is wrong");
  if (count && !inputs) return say(m, EDGECC_NULL, "the inputs are null");
  for (int32_t i = 0; i < count; i++)
    if ((status = check_alone(m, &inputs[i], &model->inputs[i]))) return status;
  for (int32_t v = 0; v < model->variables_count; v++) {
    const edgecc_variable *from = &model->variables[v];
    m->sizes[v] = inputs[from->input].shape[from->axis];
    if ((m->sizes[v] - from->offset) % from->scale) return wrong_size(m, &model->inputs[from->input], from->axis, m->sizes[v]);
  }
  for (int32_t i = 0; i < count; i++)
    if ((status = check_sizes(m, &inputs[i], i, &model->inputs[i]))) return status;
  return EDGECC_OK;
}

static int overlap(const edgecc_tensor *a, const edgecc_tensor *b) {
  const char *x = a->data, *y = b->data;
  size_t p = bytes_of(a), q = bytes_of(b);
  return p && q && x < y + q && y < x + p;
}

static edgecc_status check_outputs(edgecc_instance *m, const edgecc_tensor *inputs, const edgecc_tensor *outputs, int32_t count) {
  const edgecc_model *model = m->model;
  edgecc_status status;
  if (count != model->outputs_count) return say(m, EDGECC_COUNT, "the number of outputs is wrong");
  if (count && !outputs) return say(m, EDGECC_NULL, "the outputs are null");
  for (int32_t i = 0; i < model->inputs_count; i++)
    if ((status = check_memory(m, &inputs[i], &model->inputs[i]))) return status;
  for (int32_t o = 0; o < count; o++) {
    const edgecc_port *port = &model->outputs[o];
    if ((status = check_alone(m, &outputs[o], port))) return status;
    if ((status = check_sizes(m, &outputs[o], model->inputs_count + o, port))) return status;
    if ((status = check_memory(m, &outputs[o], port))) return status;
    for (int32_t i = 0; i < model->inputs_count; i++)
      if (overlap(&outputs[o], &inputs[i])) return wrong(m, EDGECC_OVERLAP, port, "overlaps an input");
    for (int32_t other = 0; other < o; other++)
      if (overlap(&outputs[o], &outputs[other])) return wrong(m, EDGECC_OVERLAP, port, "overlaps another output");
  }
  return EDGECC_OK;
}

/* ---- threads */

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__) || defined(__arm__))
#if defined(__x86_64__)
enum { FUTEX = 202 };
#elif defined(__aarch64__)
enum { FUTEX = 98 };
#else
enum { FUTEX = 240 };
#endif
enum { WAIT_PRIVATE = 128, WAKE_PRIVATE = 129 };
static void sleep_on(atomic_uint *word, unsigned seen) { syscall(FUTEX, word, (long)WAIT_PRIVATE, (unsigned long)seen, (void *)0); }
static void wake_all(atomic_uint *word) { syscall(FUTEX, word, (long)WAKE_PRIVATE, 0x7fffffffL); }
#else
static void sleep_on(atomic_uint *word, unsigned seen) { (void)word, (void)seen, sched_yield(); }
static void wake_all(atomic_uint *word) { (void)word; }
#endif

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb"); /* some ten nanoseconds, where `yield` takes none */
#elif defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static void wait_while(edgecc_instance *m, unsigned seen) {
  for (int i = 0; i < SPINS + YIELDS; i++) {
    if (atomic_load_explicit(&m->generation, memory_order_acquire) != seen) return;
    if (i < SPINS)
      relax();
    else
      sched_yield();
  }
  atomic_fetch_add(&m->sleepers, 1);
  while (atomic_load(&m->generation) == seen) sleep_on(&m->generation, seen);
  atomic_fetch_sub(&m->sleepers, 1);
}

static void barrier(edgecc_instance *m) {
  if (m->threads == 1) return;
  unsigned seen = atomic_load(&m->generation);
  if (atomic_fetch_add(&m->arrived, 1) + 1 < (unsigned)m->threads) {
    wait_while(m, seen);
    return;
  }
  atomic_store(&m->arrived, 0);
  atomic_store(&m->generation, seen + 1);
  if (atomic_load(&m->sleepers)) wake_all(&m->generation);
}

static void run_steps(edgecc_instance *m, int64_t thread) {
  const edgecc_model *model = m->model;
  const edgecc_frame frame = {m->sizes, m->inputs, m->outputs, m->arena};
  int64_t before = 1;
  for (int32_t s = 0; s < model->steps_count; s++) {
    const edgecc_step *step = &model->steps[s];
    int64_t extent = step->extent < 0 ? model->extent(m->sizes, s) : step->extent;
    int64_t parts = step->alone || extent < 1 ? 1 : extent < m->threads ? extent : m->threads;
    if (parts > 1 || before > 1) barrier(m);
    if (thread < parts) step->run(&frame, extent * thread / parts, extent * (thread + 1) / parts);
    before = parts;
  }
}

static void *work(void *argument) {
  worker *w = argument;
  for (;;) {
    barrier(w->instance);
    if (w->instance->quit) return NULL;
    run_steps(w->instance, w->number);
    barrier(w->instance);
  }
}

/* ---- instances */

static size_t aligned(size_t bytes) { return (bytes + EDGECC_ALIGNMENT - 1) & ~(size_t)(EDGECC_ALIGNMENT - 1); }

static size_t head(const edgecc_model *model, int32_t threads) {
  size_t tables = (size_t)model->variables_count * sizeof(int64_t) + ((size_t)model->inputs_count + (size_t)model->outputs_count) * sizeof(void *);
  return aligned(sizeof(edgecc_instance)) + aligned(tables) + aligned((size_t)threads * sizeof(worker));
}

size_t edgecc_model_memory(const edgecc_model *model, int32_t threads) {
  return model && threads >= 1 && threads <= EDGECC_MAX_THREADS ? head(model, threads) + model->arena : 0;
}

/* `arrived` counts those who wait for the first run; a thread that was not started is never waited for. */
static edgecc_status start(edgecc_instance *m, int32_t threads) {
  m->threads = threads;
  for (int32_t t = 1; t < threads; t++) {
    m->workers[t].instance = m;
    m->workers[t].number = t;
    if (!pthread_create(&m->workers[t].thread, NULL, work, &m->workers[t])) continue;
    while (atomic_load(&m->arrived) + 1 < (unsigned)t) sched_yield();
    m->threads = t;
    edgecc_model_close(m);
    return EDGECC_THREADS;
  }
  return EDGECC_OK;
}

edgecc_status edgecc_model_init(const edgecc_model *model, int32_t threads, void *memory, size_t bytes, edgecc_instance **instance) {
  if (!model || !memory || !instance) return EDGECC_NULL;
  *instance = NULL;
  if (model->abi != EDGECC_ABI) return EDGECC_VERSION;
  if (threads < 1 || threads > EDGECC_MAX_THREADS) return EDGECC_THREADS;
  if ((uintptr_t)memory % EDGECC_ALIGNMENT) return EDGECC_UNALIGNED;
  if (bytes < edgecc_model_memory(model, threads)) return EDGECC_MEMORY;
  edgecc_instance *m = memory;
  char *place = (char *)memory + aligned(sizeof *m);
  memset(m, 0, head(model, threads));
  m->model = model;
  m->sizes = (int64_t *)place;
  m->inputs = (void **)(m->sizes + model->variables_count);
  m->outputs = m->inputs + model->inputs_count;
  m->arena = (char *)memory + head(model, threads);
  m->workers = (worker *)(m->arena - aligned((size_t)threads * sizeof(worker)));
  edgecc_status status = start(m, threads);
  if (!status) *instance = m;
  return status;
}

static edgecc_status enter(edgecc_instance *m) {
  if (atomic_exchange(&m->busy, 1)) return EDGECC_BUSY;
  m->message[0] = 0;
  return EDGECC_OK;
}

edgecc_status edgecc_model_output_shape(edgecc_instance *m, const edgecc_tensor *inputs, int32_t count, int32_t output, int64_t *shape) {
  if (!m || !shape) return EDGECC_NULL;
  edgecc_status status = enter(m);
  if (status) return status;
  status = bind(m, inputs, count);
  if (!status && !edgecc_model_output(m->model, output)) status = say(m, EDGECC_COUNT, "there is no such output");
  for (int32_t a = 0; !status && a < m->model->outputs[output].rank; a++)
    shape[a] = size_of(m, m->model->inputs_count + output, &m->model->outputs[output], a);
  atomic_store(&m->busy, 0);
  return status;
}

edgecc_status edgecc_model_run(edgecc_instance *m, const edgecc_tensor *inputs, int32_t input_count, const edgecc_tensor *outputs, int32_t output_count) {
  if (!m) return EDGECC_NULL;
  edgecc_status status = enter(m);
  if (status) return status;
  status = bind(m, inputs, input_count);
  if (!status) status = check_outputs(m, inputs, outputs, output_count);
  if (!status) {
    for (int32_t i = 0; i < input_count; i++) m->inputs[i] = inputs[i].data;
    for (int32_t o = 0; o < output_count; o++) m->outputs[o] = outputs[o].data;
    barrier(m);
    run_steps(m, 0);
    barrier(m);
  }
  atomic_store(&m->busy, 0);
  return status;
}

void edgecc_model_close(edgecc_instance *m) {
  if (!m || m->threads == 1) return;
  m->quit = 1;
  barrier(m);
  for (int32_t t = 1; t < m->threads; t++) pthread_join(m->workers[t].thread, NULL);
  m->threads = 1;
}
