/* runtime/memory.h: how much memory the system could still give this process, and how much it has. */
#ifndef DIPPER_RUNTIME_MEMORY_H
#define DIPPER_RUNTIME_MEMORY_H

#include <stdint.h>

/* Bytes: the least of what the machine has available, what the control groups (v1 and v2) leave, and what the limit of
 * the address space does. 0: the system does not say. */
int64_t rt_memory_available(void);
int64_t rt_memory_resident(void); /* bytes of this process in memory; 0: unknown */
/* Gives freed memory of the heap back to the system. */
void rt_memory_trim(void);

/* Sums and products of sizes that stay at a limit beyond every memory instead of overflowing. Of numbers >= 0. */
enum { RT_MEMORY_BITS = 58 };
int64_t rt_bytes_times(int64_t a, int64_t b);
int64_t rt_bytes_plus(int64_t a, int64_t b);

#endif
