/* A plugin for qemu-user: how often each translated block of a program runs, and what a two-level data cache misses.
 *
 *   qemu-aarch64 -plugin counter.so,out=FILE[,cache=on] PROGRAM ...
 *
 * FILE gets a line a block, `block COUNT WORD WORD ...` (the machine code in hexadecimal), then `lines`, `l1`, `l2`:
 * 64-byte lines touched, and misses of each level. A program that makes the system call MARK (which Linux does not
 * have) starts the count at the first one and ends it at the second, so that nothing but the work between them counts.
 * One thread. Plugin API version 1 (QEMU 4.2 and later); its entry points are declared here, no header is needed. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MARK = 0x65646765, READS_AND_WRITES = 3, ADD_U64 = 0, NO_REGISTERS = 0 };

struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*)(uint64_t id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int op, void *counter, uint64_t value);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, void (*)(unsigned cpu, uint32_t info, uint64_t address, void *),
                                             int registers, int access, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(uint64_t id, void (*)(uint64_t id, unsigned cpu, int64_t number, uint64_t, uint64_t,
                                                                       uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_atexit_cb(uint64_t id, void (*)(uint64_t id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern unsigned qemu_plugin_mem_size_shift(uint32_t info);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

struct block {
  struct block *next;
  uint64_t count;
  size_t length;
  uint32_t words[];
};

struct cache {
  unsigned sets, ways;
  uint64_t misses, *lines; /* lines[set][way], the most recently used first */
};

static struct block *blocks;
static struct cache l1 = {.sets = 256, .ways = 2}, l2 = {.sets = 1024, .ways = 16}; /* cortex-a72: 32 KB 2-way, 1 MB 16-way */
static uint64_t touched;
static bool cached, written;
static int marks;
static const char *path;

static bool hit(struct cache *cache, uint64_t line) {
  uint64_t *set = cache->lines + line % cache->sets * cache->ways;
  unsigned way = 0;
  while (way < cache->ways && set[way] != line) way++;
  bool found = way < cache->ways;
  memmove(set + 1, set, (found ? way : cache->ways - 1) * sizeof *set);
  set[0] = line;
  cache->misses += !found;
  return found;
}

static void access_memory(unsigned cpu, uint32_t info, uint64_t address, void *unused) {
  uint64_t last = (address + (1u << qemu_plugin_mem_size_shift(info)) - 1) / 64;
  for (uint64_t line = address / 64; line <= last; line++) {
    touched++;
    if (!hit(&l1, line)) hit(&l2, line);
  }
}

static void translate(uint64_t id, struct qemu_plugin_tb *tb) {
  size_t length = qemu_plugin_tb_n_insns(tb);
  struct block *block = calloc(1, sizeof *block + length * sizeof *block->words);
  if (!block) abort();
  block->length = length;
  block->next = blocks;
  blocks = block;
  for (size_t i = 0; i < length; i++) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(tb, i);
    memcpy(&block->words[i], qemu_plugin_insn_data(instruction), sizeof *block->words);
    if (cached) qemu_plugin_register_vcpu_mem_cb(instruction, access_memory, NO_REGISTERS, READS_AND_WRITES, NULL);
  }
  qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &block->count, 1);
}

static void write_counts(void) {
  FILE *file = written ? NULL : fopen(path, "w");
  if (!file) return;
  written = true;
  for (struct block *block = blocks; block; block = block->next) {
    if (!block->count) continue;
    fprintf(file, "block %" PRIu64, block->count);
    for (size_t i = 0; i < block->length; i++) fprintf(file, " %08" PRIx32, block->words[i]);
    fputc('\n', file);
  }
  if (cached) fprintf(file, "lines %" PRIu64 "\nl1 %" PRIu64 "\nl2 %" PRIu64 "\n", touched, l1.misses, l2.misses);
  fclose(file);
}

static void system_call(uint64_t id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
                        uint64_t g, uint64_t h) {
  if (number != MARK) return;
  if (++marks == 2) write_counts();
  for (struct block *block = blocks; block; block = block->next) block->count = 0;
  touched = l1.misses = l2.misses = 0; /* the lines stay: the cache is warm */
}

static void leave(uint64_t id, void *unused) { write_counts(); }

struct machine; /* what qemu tells about itself; not needed */

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const struct machine *machine, int count, char **arguments) {
  for (int i = 0; i < count; i++) {
    if (!strncmp(arguments[i], "out=", 4)) path = strdup(arguments[i] + 4);
    if (!strcmp(arguments[i], "cache=on")) cached = true;
  }
  if (!path) return 1;
  l1.lines = calloc(l1.sets * l1.ways, sizeof *l1.lines);
  l2.lines = calloc(l2.sets * l2.ways, sizeof *l2.lines);
  if (!l1.lines || !l2.lines) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
  qemu_plugin_register_vcpu_syscall_cb(id, system_call);
  qemu_plugin_register_atexit_cb(id, leave, NULL);
  return 0;
}
