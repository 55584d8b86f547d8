/* use_and_misuse FOLDER THREADS: run the model compiled_model, of two outputs or more, in every wrong way and in the right one.
 *
 * FOLDER has input0.bin, ... and output0.bin, ...: raw data at the largest sizes. A line of standard output for each wrong
 * use has the status and the message; `right N` says that N right runs gave the outputs and wrote nowhere else. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgecc_model.h"

extern const edgecc_model compiled_model;
enum { MOST = 8, GUARD = 256, BYTE = 0xA5, REPEATS = 5 };

typedef struct {
  edgecc_tensor in[MOST], out[MOST];
  int64_t shapes[2 * MOST][8];
  char *wanted[MOST];
  edgecc_instance *instance;
  char *memory;
  size_t bytes;
  int threads, failures;
} state;

static const edgecc_model *const model = &compiled_model;
static int32_t inputs, outputs;
static const char *folder;

/* `bytes` between two guards. */
static char *guarded(size_t bytes) {
  void *memory;
  size_t whole = (bytes + EDGECC_ALIGNMENT - 1) / EDGECC_ALIGNMENT * EDGECC_ALIGNMENT + 2 * GUARD;
  if (posix_memalign(&memory, EDGECC_ALIGNMENT, whole)) exit(3);
  return (char *)memset(memory, BYTE, whole) + GUARD;
}

static int intact(const char *memory, size_t bytes) {
  for (int i = 0; i < GUARD; i++)
    if ((unsigned char)memory[-1 - i] != BYTE || (unsigned char)memory[bytes + i] != BYTE) return 0;
  return 1;
}

static void release(char *memory) { free(memory - GUARD); }

static void read_file(const char *kind, int number, char *to, size_t bytes) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s%d.bin", folder, kind, number);
  FILE *file = fopen(path, "rb");
  if (!file || fread(to, 1, bytes, file) != bytes) exit(4);
  fclose(file);
}

static edgecc_tensor tensor(const edgecc_port *port, int64_t *shape) {
  for (int a = 0; a < port->rank; a++) shape[a] = port->upper[a];
  edgecc_tensor made = {guarded(port->bytes), shape, port->rank, port->dtype, port->bytes};
  return made;
}

static void open_state(state *s, int threads) {
  memset(s, 0, sizeof *s);
  s->threads = threads;
  for (int i = 0; i < inputs; i++) {
    s->in[i] = tensor(edgecc_model_input(model, i), s->shapes[i]);
    read_file("input", i, s->in[i].data, s->in[i].bytes);
  }
  for (int i = 0; i < outputs; i++) {
    s->out[i] = tensor(edgecc_model_output(model, i), s->shapes[MOST + i]);
    s->wanted[i] = malloc(s->out[i].bytes);
    read_file("output", i, s->wanted[i], s->out[i].bytes);
  }
  s->bytes = edgecc_model_memory(model, threads);
  s->memory = guarded(s->bytes);
  edgecc_status status = edgecc_model_init(model, threads, s->memory, s->bytes, &s->instance);
  if (status) exit(5);
}

static void close_state(state *s) {
  edgecc_model_close(s->instance);
  if (!intact(s->memory, s->bytes)) s->failures++;
  for (int i = 0; i < inputs; i++) release(s->in[i].data);
  for (int i = 0; i < outputs; i++) release(s->out[i].data), free(s->wanted[i]);
  release(s->memory);
}

static int right(const edgecc_tensor *found, const char *wanted) {
  if (found->dtype != EDGECC_FLOAT32) return !memcmp(found->data, wanted, found->bytes);
  const float *a = found->data, *b = (const float *)(const void *)wanted;
  for (size_t i = 0; i < found->bytes / 4; i++)
    if (!(fabsf(a[i] - b[i]) <= 1e-5f * fmaxf(1, fabsf(b[i])))) return 0;
  return 1;
}

static void *run_right(void *argument) {
  state *s = argument;
  for (int r = 0; r < REPEATS; r++) {
    for (int i = 0; i < outputs; i++) memset(s->out[i].data, BYTE, s->out[i].bytes);
    if (edgecc_model_run(s->instance, s->in, inputs, s->out, outputs)) s->failures++;
    for (int i = 0; i < outputs; i++)
      if (!right(&s->out[i], s->wanted[i]) || !intact(s->out[i].data, s->out[i].bytes)) s->failures++;
  }
  return NULL;
}

static void show(const char *what, int status, const state *s) {
  printf("%s: %d %s\n", what, status, s ? edgecc_model_error(s->instance) : edgecc_status_text(status));
}

static void run(const char *what, state *s) { show(what, edgecc_model_run(s->instance, s->in, inputs, s->out, outputs), s); }

static void misuse_init(int threads) {
  edgecc_instance *instance;
  size_t bytes = edgecc_model_memory(model, threads);
  char *memory = guarded(bytes + EDGECC_ALIGNMENT);
  show("null model", edgecc_model_init(NULL, threads, memory, bytes, &instance), NULL);
  show("null memory", edgecc_model_init(model, threads, NULL, bytes, &instance), NULL);
  show("null instance", edgecc_model_init(model, threads, memory, bytes, NULL), NULL);
  show("unaligned memory", edgecc_model_init(model, threads, memory + 8, bytes, &instance), NULL);
  show("small memory", edgecc_model_init(model, threads, memory, bytes - 1, &instance), NULL);
  show("no threads", edgecc_model_init(model, 0, memory, bytes, &instance), NULL);
  show("many threads", edgecc_model_init(model, EDGECC_MAX_THREADS + 1, memory, bytes, &instance), NULL);
  show("run of null", edgecc_model_run(NULL, NULL, 0, NULL, 0), NULL);
  printf("no such port: %d\n", edgecc_model_input(model, -1) || edgecc_model_input(model, inputs) || edgecc_model_output(model, outputs));
  edgecc_model_close(NULL);
  release(memory);
}

static void misuse_run(state *s) {
  edgecc_tensor in = s->in[0], out = s->out[0];
  show("few inputs", edgecc_model_run(s->instance, s->in, inputs - 1, s->out, outputs), s);
  show("few outputs", edgecc_model_run(s->instance, s->in, inputs, s->out, outputs - 1), s);
  show("null inputs", edgecc_model_run(s->instance, NULL, inputs, s->out, outputs), s);
  show("null outputs", edgecc_model_run(s->instance, s->in, inputs, NULL, outputs), s);
  s->in[0].data = NULL, run("null data", s), s->in[0] = in;
  s->in[0].data = (char *)in.data + 4, run("unaligned input", s), s->in[0] = in;
  s->in[0].dtype = EDGECC_INT32, run("dtype", s), s->in[0] = in;
  s->in[0].dtype = -7, run("no dtype", s), s->in[0] = in;
  s->in[0].rank = in.rank - 1, run("rank", s), s->in[0] = in;
  s->in[0].shape = NULL, run("null shape", s), s->in[0] = in;
  s->in[0].bytes = in.bytes - 1, run("small input", s), s->in[0] = in;
  s->shapes[0][0]++, run("large size", s), s->shapes[0][0]--;
  s->shapes[0][0] = -1, run("negative size", s), s->shapes[0][0] = edgecc_model_input(model, 0)->upper[0];
  s->out[0].data = NULL, run("null output", s), s->out[0] = out;
  s->out[0].data = (char *)out.data + 4, run("unaligned output", s), s->out[0] = out;
  s->out[0].bytes = out.bytes - 1, run("small output", s), s->out[0] = out;
  s->shapes[MOST][0]--, run("output size", s), s->shapes[MOST][0]++;
  s->out[0].data = s->in[0].data, run("output in input", s), s->out[0] = out;
  out = s->out[1];
  s->out[1].data = s->out[0].data, run("outputs overlap", s), s->out[1] = out;
}

int main(int count, char **words) {
  if (count != 3) return 2;
  folder = words[1];
  int threads = atoi(words[2]), failures = 0;
  inputs = edgecc_model_inputs(model), outputs = edgecc_model_outputs(model);
  misuse_init(threads);
  static state one, two, third;
  pthread_t a, b;
  open_state(&one, threads), open_state(&two, threads), open_state(&third, threads);
  misuse_run(&third);
  if (pthread_create(&a, NULL, run_right, &one) || pthread_create(&b, NULL, run_right, &two)) return 6;
  pthread_join(a, NULL), pthread_join(b, NULL);
  close_state(&one), close_state(&two), close_state(&third);
  failures = one.failures + two.failures + third.failures;
  if (failures) return fprintf(stderr, "%d failures\n", failures), 7;
  printf("right %d\n", 2 * REPEATS);
  return 0;
}
