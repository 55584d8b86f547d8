/* A model that edgecc compiled: its C interface. C99 and C++.
 *
 * A program that links model.a names the model itself; its symbol stands in README.txt:
 *
 *   extern const edgecc_model compiled_model;
 *
 * One that loads model.so calls edgecc_model_loaded. Everything else is the same. A model is constant. What changes
 * while it runs lies in memory of the caller's, an instance, so that any number of instances of any models can run at
 * once; one instance runs once at a time. Nothing here allocates memory. Threads, where more than one is asked for, are
 * started by edgecc_model_init and ended by edgecc_model_close.
 */
#ifndef EDGECC_MODEL_H
#define EDGECC_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGECC_API __attribute__((visibility("default")))
#define EDGECC_ALIGNMENT 64  /* bytes: of the memory of an instance and of every tensor */
#define EDGECC_MAX_THREADS 256

typedef enum {
  EDGECC_OK = 0,
  EDGECC_NULL = 1,       /* a null pointer */
  EDGECC_UNALIGNED = 2,  /* memory that is not aligned to EDGECC_ALIGNMENT */
  EDGECC_COUNT = 3,      /* another number of inputs or outputs */
  EDGECC_DTYPE = 4,      /* a tensor of another type */
  EDGECC_SHAPE = 5,      /* a tensor of another rank or size, or a size out of bounds */
  EDGECC_MEMORY = 6,     /* memory that is too small */
  EDGECC_OVERLAP = 7,    /* an output that overlaps another tensor */
  EDGECC_THREADS = 8,    /* a thread count out of 1..EDGECC_MAX_THREADS, or threads that cannot be started */
  EDGECC_BUSY = 9,       /* the instance is running */
  EDGECC_VERSION = 10    /* the model was made for another version of this interface */
} edgecc_status;

typedef enum {
  EDGECC_FLOAT32 = 0,
  EDGECC_FLOAT64 = 1,
  EDGECC_FLOAT16 = 2,
  EDGECC_BFLOAT16 = 3,
  EDGECC_INT8 = 4,
  EDGECC_UINT8 = 5,
  EDGECC_INT16 = 6,
  EDGECC_INT32 = 7,
  EDGECC_INT64 = 8,
  EDGECC_BOOL = 9 /* one byte, 0 or 1 */
} edgecc_dtype;

typedef struct edgecc_model edgecc_model;
typedef struct edgecc_instance edgecc_instance;

/* What an input or output is. */
typedef struct {
  const char *name;
  int32_t dtype; /* edgecc_dtype */
  int32_t rank;
  const int64_t *dims;         /* -1 where dynamic */
  const int64_t *lower, *upper; /* the least and the largest size of each dimension */
  const char *const *symbols;  /* a dynamic size in words, such as `batch` or `2*seq`; "" where fixed */
  size_t bytes;                /* at the largest sizes */
} edgecc_port;

/* One tensor of the caller's: contiguous, row-major, `bytes` long or longer. */
typedef struct {
  void *data;
  const int64_t *shape; /* [rank] */
  int32_t rank;
  int32_t dtype; /* edgecc_dtype */
  size_t bytes;
} edgecc_tensor;

EDGECC_API int32_t edgecc_model_inputs(const edgecc_model *model);
EDGECC_API int32_t edgecc_model_outputs(const edgecc_model *model);
/* NULL where there is no such input or output. */
EDGECC_API const edgecc_port *edgecc_model_input(const edgecc_model *model, int32_t index);
EDGECC_API const edgecc_port *edgecc_model_output(const edgecc_model *model, int32_t index);

/* Bytes of memory of an instance that runs on so many threads; 0 for a thread count that is not allowed. */
EDGECC_API size_t edgecc_model_memory(const edgecc_model *model, int32_t threads);

/* Make an instance in `memory` of `bytes` bytes, which is the caller's and stays where it is until edgecc_model_close. */
EDGECC_API edgecc_status edgecc_model_init(const edgecc_model *model, int32_t threads, void *memory, size_t bytes, edgecc_instance **instance);

/* The shape [rank] of an output for inputs of these shapes; their data is not read and may be NULL. */
EDGECC_API edgecc_status edgecc_model_output_shape(edgecc_instance *instance, const edgecc_tensor *inputs, int32_t count, int32_t output, int64_t *shape);

/* Run. On any status but EDGECC_OK nothing was computed. */
EDGECC_API edgecc_status edgecc_model_run(edgecc_instance *instance, const edgecc_tensor *inputs, int32_t input_count, const edgecc_tensor *outputs, int32_t output_count);

/* What was wrong with the last call on this instance, "" where nothing was. */
EDGECC_API const char *edgecc_model_error(const edgecc_instance *instance);
EDGECC_API const char *edgecc_status_text(int32_t status);

/* End the threads. The memory is the caller's again. */
EDGECC_API void edgecc_model_close(edgecc_instance *instance);

/* The model of a shared library model.so. */
EDGECC_API const edgecc_model *edgecc_model_loaded(void);

#ifdef __cplusplus
}
#endif
#endif
