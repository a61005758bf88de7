// What the parts of the null GPU share: reporting to Python, the table of kernels, fresh handles.
#ifndef NULL_GPU_DEVICE_H
#define NULL_GPU_DEVICE_H
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include "driver_types.h"

// What can happen to the device. The order is known to recording.py.
enum kind { LAUNCH, WAIT, PAGEABLE_COPY, PINNED_COPY, DEVICE_COPY, ALLOCATION, KINDS };

// Counts one happening; waits and pageable copies are also passed to Python where it listens.
void report(enum kind kind, const char *what, long bytes);
// Counts a launch of the kernel known by this address; `name` serves where the address was never registered.
void launch(const void *kernel, const char *name);
// The registered (mangled) name of a kernel, or NULL.
const char *kernel_name(const void *kernel);
// A number that nothing else has, for streams, events, plans.
int fresh_handle(void **handle);
// Executes the few kernels whose effect the host's logic needs; the others stay without effect (fill.c).
void execute_fill(const void *kernel, void **arguments);

// The device that is shown: an H100 SXM by its data sheet. build.py adds CUDA_VERSION_SHOWN, the version that torch was
// built for.
#define DEVICE_NAME "NVIDIA H100 80GB HBM3 (null)"
#define DEVICE_MEMORY 85520809984UL
#define OUT_OF_MEMORY 2
#define INVALID_DEVICE 101
int device_attribute(int attribute);
#endif
