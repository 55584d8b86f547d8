/* What a generated model and the code that runs it share. */
#ifndef EDGECC_INTERNAL_H
#define EDGECC_INTERNAL_H

#include "edgecc_model.h"

#define EDGECC_HIDDEN __attribute__((visibility("hidden")))
#define EDGECC_ABI 1

/* One run: the values of the model's dynamic sizes, and where its tensors lie. */
typedef struct {
  const int64_t *sizes;
  void *const *inputs;
  void *const *outputs;
  char *arena;
} edgecc_frame;

/* One kernel call. Its iterations 0..extent may run in any order on any thread; -1: they are counted by the model. */
typedef struct {
  void (*run)(const edgecc_frame *frame, int64_t begin, int64_t end);
  int64_t extent;
  int32_t alone; /* too little work for more than one thread */
} edgecc_step;

/* A dynamic size is that of an axis of an input. In the words of the user that axis is scale * name + offset. */
typedef struct {
  int32_t input, axis;
  int64_t scale, offset;
} edgecc_variable;

struct edgecc_model {
  int32_t abi;
  int32_t inputs_count, outputs_count, steps_count, variables_count;
  const edgecc_port *inputs, *outputs;
  const edgecc_step *steps;
  const edgecc_variable *variables;
  int64_t (*extent)(const int64_t *sizes, int32_t step);
  int64_t (*size)(const int64_t *sizes, int32_t port, int32_t axis); /* ports: inputs, then outputs */
  size_t arena;
};

#endif
