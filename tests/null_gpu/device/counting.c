// Counts what a program does to the device, and tells Python of what the host should not do within a step.
#include "device.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*listener_t)(int kind, const char *what, long bytes);
static listener_t listener;
static __thread int listening;  // a listener that itself uses the device is not told of that
static long counts[KINDS];

void report(enum kind kind, const char *what, long bytes) {
    __atomic_add_fetch(&counts[kind], 1, __ATOMIC_RELAXED);
    // Launches and allocations happen under torch's own locks: calling Python there could deadlock on its interpreter lock.
    if (listener && !listening && (kind == WAIT || kind == PAGEABLE_COPY)) {
        listening = 1;
        listener(kind, what, bytes);
        listening = 0;
    }
}
void null_gpu_listen(listener_t to) { listener = to; }
long null_gpu_count(int kind) { return __atomic_load_n(&counts[kind], __ATOMIC_RELAXED); }

// ---- kernels: an open hash table from the address of a kernel's host stub to its name and launches
#define SLOTS (1 << 20)
static struct { const void *kernel; const char *name; long launches; } kernels[SLOTS];
static pthread_mutex_t kernels_lock = PTHREAD_MUTEX_INITIALIZER;

static long slot_of(const void *kernel) {
    unsigned long slot = ((unsigned long)kernel * 0x9E3779B97F4A7C15UL) >> 44;
    while (kernels[slot].kernel && kernels[slot].kernel != kernel) slot = (slot + 1) & (SLOTS - 1);
    return (long)slot;
}
static void name_kernel(const void *kernel, const char *name) {
    pthread_mutex_lock(&kernels_lock);
    long slot = slot_of(kernel);
    kernels[slot].kernel = kernel;
    kernels[slot].name = name;
    pthread_mutex_unlock(&kernels_lock);
}
const char *kernel_name(const void *kernel) { return kernels[slot_of(kernel)].name; }
void launch(const void *kernel, const char *name) {
    pthread_mutex_lock(&kernels_lock);
    long slot = slot_of(kernel);
    if (!kernels[slot].kernel) { kernels[slot].kernel = kernel; kernels[slot].name = name; }
    kernels[slot].launches++;
    pthread_mutex_unlock(&kernels_lock);
    report(LAUNCH, name, 0);
}
// For what has no kernel of its own here (a convolution that cuDNN would do): `name` must live for ever.
void null_gpu_launch(const char *name) { launch(name, name); }
// The launched kernel at or after slot `from`: the slot to go on from, or -1 after the last.
long null_gpu_next_kernel(long from, const char **name, long *launches) {
    for (long slot = from; slot < SLOTS; slot++)
        if (kernels[slot].launches) { *name = kernels[slot].name; *launches = kernels[slot].launches; return slot + 1; }
    return -1;
}

// ---- how nvcc's code registers and launches
void **__cudaRegisterFatBinary(void *binary) { static void *handle; return &handle; }
void __cudaRegisterFatBinaryEnd(void **handle) {}
void __cudaUnregisterFatBinary(void **handle) {}
void __cudaRegisterVar(void **handle, char *variable, char *address, const char *name, int external, size_t size, int constant, int global) {}
void __cudaRegisterFunction(void **handle, const char *stub, char *function, const char *name, int limit, void *thread, void *block, void *block_dim, void *grid_dim, int *warp) {
    name_kernel(stub, name);
}
typedef struct { unsigned x, y, z; } dimensions;
static __thread struct { dimensions grid, block; size_t shared; void *stream; } pushed[16];
static __thread int depth;
unsigned __cudaPushCallConfiguration(dimensions grid, dimensions block, size_t shared, void *stream) {
    pushed[depth].grid = grid; pushed[depth].block = block; pushed[depth].shared = shared; pushed[depth++].stream = stream;
    return 0;
}
int __cudaPopCallConfiguration(dimensions *grid, dimensions *block, size_t *shared, void *stream) {
    depth--;
    *grid = pushed[depth].grid; *block = pushed[depth].block; *shared = pushed[depth].shared; *(void **)stream = pushed[depth].stream;
    return 0;
}
int __cudaGetKernel(void **kernel, const void *stub) { *kernel = (void *)stub; return 0; }
int cudaLaunchKernel(const void *kernel, dimensions grid, dimensions block, void **arguments, size_t shared, void *stream) {
    launch(kernel, "?");
    execute_fill(kernel, arguments);
    return 0;
}
int __cudaLaunchKernel(void *kernel, dimensions grid, dimensions block, void **arguments, size_t shared, void *stream) {
    return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}
int cudaLaunchKernelExC(const void *config, const void *kernel, void **arguments) { launch(kernel, "?"); return 0; }
int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *argument) { function(argument); return 0; }
int cudaStreamAddCallback(void *stream, void (*function)(void *, int, void *), void *argument, unsigned flags) { function(stream, 0, argument); return 0; }
int cudaLibraryGetKernel(void **kernel, void *library, const char *name) { *kernel = strdup(name); name_kernel(*kernel, *kernel); return 0; }

// ---- the driver's side of the same (Triton launches through it): a function's handle is its name
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = strdup(name); return 0; }
int cuFuncGetName(const char **name, void *function) { *name = function; return 0; }
int cuLaunchKernel(void *function) { launch(function, function); return 0; }
int cuLaunchKernelEx(void *config, void *function) { launch(function, function); return 0; }
int cuLaunchCooperativeKernel(void *function) { launch(function, function); return 0; }
