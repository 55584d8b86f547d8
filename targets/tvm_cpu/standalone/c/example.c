/* Run a compiled model once: ./example [THREADS [FILE...]]
 *
 * FILE holds the raw data of an input, one for each; without files the inputs are zero. A dynamic dimension has its
 * largest size. The first values of each output are printed. README.txt has the lines that build this.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgecc_model.h"

extern const edgecc_model compiled_model;

enum { MOST = 64 };

/* Zeros, aligned as a model wants them. */
static void *allocate(size_t bytes) {
  void *memory = NULL;
  size_t whole = (bytes + EDGECC_ALIGNMENT) / EDGECC_ALIGNMENT * EDGECC_ALIGNMENT;
  if (posix_memalign(&memory, EDGECC_ALIGNMENT, whole)) exit(1);
  return memset(memory, 0, whole);
}

static edgecc_tensor tensor_for(const edgecc_port *port) {
  edgecc_tensor tensor = {allocate(port->bytes), port->upper, port->rank, port->dtype, port->bytes};
  return tensor;
}

static void print(const edgecc_port *port, const edgecc_tensor *tensor) {
  printf("%s:", port->name);
  for (size_t i = 0; i < 8; i++) {
    if (port->dtype == EDGECC_FLOAT32 && (i + 1) * 4 <= tensor->bytes) printf(" %.6g", ((const float *)tensor->data)[i]);
    if (port->dtype == EDGECC_INT64 && (i + 1) * 8 <= tensor->bytes) printf(" %lld", (long long)((const int64_t *)tensor->data)[i]);
  }
  printf("\n");
}

int main(int count, char **words) {
  const edgecc_model *model = &compiled_model;
  int32_t threads = count > 1 ? atoi(words[1]) : 1;
  int32_t inputs = edgecc_model_inputs(model), outputs = edgecc_model_outputs(model);
  edgecc_tensor in[MOST], out[MOST];
  edgecc_instance *instance = NULL;
  if (inputs > MOST || outputs > MOST) return 1;

  for (int32_t i = 0; i < inputs; i++) {
    in[i] = tensor_for(edgecc_model_input(model, i));
    if (count <= 2 + i) continue;
    FILE *file = fopen(words[2 + i], "rb");
    if (!file || fread(in[i].data, 1, in[i].bytes, file) != in[i].bytes) {
      fprintf(stderr, "%s has not the %zu bytes of %s\n", words[2 + i], in[i].bytes, edgecc_model_input(model, i)->name);
      return 2;
    }
    fclose(file);
  }
  for (int32_t i = 0; i < outputs; i++) out[i] = tensor_for(edgecc_model_output(model, i));

  size_t bytes = edgecc_model_memory(model, threads);
  void *memory = allocate(bytes);
  edgecc_status status = edgecc_model_init(model, threads, memory, bytes, &instance);
  if (status) {
    fprintf(stderr, "%s\n", edgecc_status_text(status));
    return 1;
  }
  status = edgecc_model_run(instance, in, inputs, out, outputs);
  if (status) fprintf(stderr, "%s\n", edgecc_model_error(instance));
  edgecc_model_close(instance);

  for (int32_t i = 0; i < outputs && !status; i++) print(edgecc_model_output(model, i), &out[i]);
  for (int32_t i = 0; i < inputs; i++) free(in[i].data);
  for (int32_t i = 0; i < outputs; i++) free(out[i].data);
  free(memory);
  return status ? 1 : 0;
}
