/* Run the model that it is linked with again and again, to be timed or counted:
 *
 *   driver -t THREADS --time CASE          for each line N of the input: nanoseconds of N runs, then of the processor
 *   driver -t THREADS --count RUNS CASE    one run, then RUNS runs between two system calls MARK (see counter.c)
 *
 * CASE is a folder with input0.npy, ... The words spoken with --time are those of edgecc/targeting/timing.py. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "edgecc_model.h"

enum { MARK = 0x65646765, MOST = 64 };

static edgecc_instance *instance;
static edgecc_tensor in[MOST], out[MOST];
static int32_t inputs, outputs;

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  exit(1);
}

static void *allocate(size_t bytes) {
  void *memory;
  if (posix_memalign(&memory, EDGECC_ALIGNMENT, bytes ? bytes : 1)) fail("out of memory\n");
  return memory;
}

/* The array of a .npy file, version 1 to 3, row-major; its dtype is checked by its size alone. */
static edgecc_tensor read_array(const char *folder, int32_t index, int32_t dtype) {
  char path[4096], header[65536];
  snprintf(path, sizeof path, "%s/input%d.npy", folder, (int)index);
  FILE *file = fopen(path, "rb");
  unsigned char start[12];
  if (!file || fread(start, 1, 10, file) != 10) fail("%s cannot be read\n", path);
  size_t length = start[8] | start[9] << 8;
  if (start[6] > 1) length |= fread(start + 10, 1, 2, file) == 2 ? (size_t)start[10] << 16 | (size_t)start[11] << 24 : 0;
  if (length >= sizeof header || fread(header, 1, length, file) != length) fail("%s has no header\n", path);
  header[length] = 0;
  int64_t *shape = allocate(sizeof *shape * MOST), count = 1;
  int32_t rank = 0;
  char *text = strstr(header, "'shape': (");
  for (text = text ? text + 10 : header + length; *text && *text != ')' && rank < MOST; text += strspn(text, ", "))
    count *= shape[rank++] = strtoll(text, &text, 10);
  long begin = ftell(file);
  fseek(file, 0, SEEK_END);
  size_t bytes = (size_t)(ftell(file) - begin);
  fseek(file, begin, SEEK_SET);
  edgecc_tensor tensor = {allocate(bytes), shape, rank, dtype, bytes};
  if (fread(tensor.data, 1, bytes, file) != bytes) fail("%s is cut short\n", path);
  fclose(file);
  return tensor;
}

static void load(int threads, const char *folder) {
  const edgecc_model *model = edgecc_model_loaded();
  inputs = edgecc_model_inputs(model), outputs = edgecc_model_outputs(model);
  if (inputs > MOST || outputs > MOST) fail("more than %d inputs or outputs\n", MOST);
  size_t bytes = edgecc_model_memory(model, threads);
  edgecc_status status = edgecc_model_init(model, threads, allocate(bytes), bytes, &instance);
  if (status) fail("%s\n", edgecc_status_text(status));
  for (int32_t i = 0; i < inputs; i++) in[i] = read_array(folder, i, edgecc_model_input(model, i)->dtype);
  for (int32_t i = 0; i < outputs; i++) {
    const edgecc_port *port = edgecc_model_output(model, i);
    int64_t *shape = allocate(sizeof *shape * MOST);
    if (edgecc_model_output_shape(instance, in, inputs, i, shape)) fail("%s\n", edgecc_model_error(instance));
    out[i] = (edgecc_tensor){allocate(port->bytes), shape, port->rank, port->dtype, port->bytes};
  }
}

static void run(void) {
  if (edgecc_model_run(instance, in, inputs, out, outputs)) fail("%s\n", edgecc_model_error(instance));
}

static int64_t now(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static int64_t memory(const char *key) {
  char line[256];
  long long kilobytes = 0;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    if (!strncmp(line, key, strlen(key))) kilobytes = atoll(line + strlen(key));
  if (file) fclose(file);
  return kilobytes * 1024;
}

int main(int count, char **words) {
  if (count != 5 && count != 6) fail("usage: driver -t THREADS --time CASE | --count RUNS CASE\n");
  int64_t before = memory("VmRSS:");
  load(atoi(words[2]), words[count - 1]);
  if (count == 6) {
    int runs = atoi(words[4]);
    run();
    syscall(MARK);
    for (int i = 0; i < runs; i++) run();
    syscall(MARK);
    return 0;
  }
  puts("ready");
  fflush(stdout);
  for (int runs; scanf("%d", &runs) == 1;) {
    int64_t *walls = malloc(sizeof *walls * runs * 2), *processors = walls + runs;
    if (!walls) fail("out of memory\n");
    for (int i = 0; i < runs; i++) {
      int64_t wall = now(CLOCK_MONOTONIC), processor = now(CLOCK_PROCESS_CPUTIME_ID);
      run();
      processors[i] = now(CLOCK_PROCESS_CPUTIME_ID) - processor;
      walls[i] = now(CLOCK_MONOTONIC) - wall;
    }
    for (int i = 0; i < 2 * runs; i++) printf("%" PRId64 "%c", walls[i], i + 1 < 2 * runs ? ' ' : '\n');
    fflush(stdout);
    free(walls);
  }
  printf("%" PRId64 "\n", memory("VmHWM:") - before);
  return 0;
}
