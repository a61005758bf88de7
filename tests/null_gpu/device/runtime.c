// Streams, events, properties and graphs of the CUDA runtime and driver; every wait of the host is reported.
#include "device.h"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int fresh_handle(void **handle) {
    static long last = 0x1000;
    *handle = (void *)__atomic_add_fetch(&last, 16, __ATOMIC_SEQ_CST);
    return 0;
}

// ---- waits
int cudaStreamSynchronize(void *stream) { report(WAIT, "cudaStreamSynchronize", 0); return 0; }
int cudaDeviceSynchronize(void) { report(WAIT, "cudaDeviceSynchronize", 0); return 0; }
int cudaEventSynchronize(void *event) { report(WAIT, "cudaEventSynchronize", 0); return 0; }
int cudaEventQuery(void *event) { return 0; }
int cudaStreamQuery(void *stream) { return 0; }
int cudaEventElapsedTime(float *milliseconds, void *start, void *end) { *milliseconds = 1.0f; return 0; }

// ---- streams, events, graphs, pools: handles
int cudaStreamCreate(void **stream) { return fresh_handle(stream); }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return fresh_handle(stream); }
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return fresh_handle(stream); }
int cudaEventCreate(void **event) { return fresh_handle(event); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return fresh_handle(event); }
int cudaGraphInstantiate(void **graph, void *source, unsigned long long flags) { return fresh_handle(graph); }
int cudaGraphInstantiateWithFlags(void **graph, void *source, unsigned long long flags) { return fresh_handle(graph); }
int cudaUserObjectCreate(void **object, void *pointer, void (*destroy)(void *), unsigned count, unsigned flags) { return fresh_handle(object); }
int cudaLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned n, void *c, void *d, unsigned m) { return fresh_handle(library); }
int cudaDeviceGetDefaultMemPool(void **pool, int device) { return fresh_handle(pool); }
int cudaMemPoolGetAttribute(void *pool, int attribute, void *value) { *(uint64_t *)value = 0; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *id, void **graph, void **dependencies, void **edges, size_t *count) {
    *status = 0;
    if (id) *id = 0;
    if (graph) *graph = 0;
    if (count) *count = 0;
    return 0;
}
int cudaStreamGetPriority(void *stream, int *priority) { *priority = 0; return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cudaThreadExchangeStreamCaptureMode(int *mode) { return 0; }

// ---- the device that is shown
int device_attribute(int attribute) {
    switch (attribute) {  // numbers of cudaDeviceAttr
    case 1: case 2: case 3: return 1024;                             // threads of a block, in x, in y
    case 4: return 64;                                               // in z
    case 5: case 11: return 2147483647;                              // blocks of a grid in x, pitch
    case 6: case 7: return 65535;                                    // blocks of a grid in y, in z
    case 9: case 12: case 82: return 65536;                          // constant memory, registers of a block, of a multiprocessor
    case 8: return 49152;                                            // shared memory of a block
    case 10: return 32;                                              // threads of a warp
    case 13: return 1980000;                                         // clock, kHz
    case 14: return 512;                                             // texture alignment
    case 15: case 31: case 41: case 78: case 83: case 95: case 115: case 120: return 1;  // overlap, concurrency, unified addresses, ...
    case 16: return 132;                                             // multiprocessors
    case 36: return 2619000;                                         // memory clock, kHz
    case 37: return 5120;                                            // memory bus, bits
    case 38: return 52428800;                                        // L2 cache
    case 39: return 2048;                                            // threads of a multiprocessor
    case 75: return 9;                                               // compute capability 9.0
    case 81: return 233472;                                          // shared memory of a multiprocessor
    case 97: return 232448;                                          // shared memory of a block, opt-in
    case 106: return 32;                                             // blocks of a multiprocessor
    default: return 0;
    }
}
int cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    memset(properties, 0, sizeof *properties);
    strcpy(properties->name, DEVICE_NAME);
    properties->totalGlobalMem = DEVICE_MEMORY;
    properties->major = device_attribute(75);
    properties->minor = 0;
    properties->multiProcessorCount = device_attribute(16);
    properties->warpSize = device_attribute(10);
    properties->maxThreadsPerBlock = properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
    properties->maxThreadsDim[2] = 64;
    properties->maxGridSize[0] = device_attribute(5);
    properties->maxGridSize[1] = properties->maxGridSize[2] = device_attribute(6);
    properties->maxThreadsPerMultiProcessor = device_attribute(39);
    properties->maxBlocksPerMultiProcessor = device_attribute(106);
    properties->regsPerBlock = properties->regsPerMultiprocessor = device_attribute(12);
    properties->sharedMemPerBlock = device_attribute(8);
    properties->sharedMemPerBlockOptin = device_attribute(97);
    properties->sharedMemPerMultiprocessor = device_attribute(81);
    properties->reservedSharedMemPerBlock = 1024;
    properties->totalConstMem = device_attribute(9);
    properties->textureAlignment = device_attribute(14);
    properties->memoryBusWidth = device_attribute(37);
    properties->l2CacheSize = device_attribute(38);
    properties->unifiedAddressing = properties->concurrentKernels = properties->cooperativeLaunch = 1;
    properties->asyncEngineCount = 3;
    return 0;
}
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaSetDevice(int device) { return device == 0 ? 0 : INVALID_DEVICE; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = device_attribute(attribute); return 0; }
int cudaDeviceCanAccessPeer(int *value, int device, int peer) { *value = 0; return 0; }
int cudaDeviceGetPCIBusId(char *text, int length, int device) { snprintf(text, length, "0000:00:00.0"); return 0; }
int cudaDriverGetVersion(int *version) { *version = CUDA_VERSION_SHOWN; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = CUDA_VERSION_SHOWN; return 0; }
const char *cudaGetErrorString(int error) { return error == OUT_OF_MEMORY ? "out of memory" : error ? "null GPU error" : "no error"; }
const char *cudaGetErrorName(int error) { return error ? "cudaErrorNull" : "cudaSuccess"; }
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }
int cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *kernel) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    attributes->ptxVersion = attributes->binaryVersion = 90;
    attributes->maxDynamicSharedSizeBytes = device_attribute(8);
    return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t shared) { *blocks = 4; return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int threads, size_t shared, unsigned flags) { *blocks = 4; return 0; }
static int ignored(void) { return 0; }
int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags, int *status) {
    *function = dlsym(RTLD_DEFAULT, name);
    if (!*function) *function = (void *)ignored;
    if (status) *status = 0;
    return 0;
}

// ---- the driver
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = CUDA_VERSION_SHOWN; return 0; }
int cuDeviceGet(int *device, int index) { *device = 0; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = device_attribute(attribute); return 0; }
int cuCtxGetCurrent(void **context) { *context = (void *)0x77; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuCtxGetLimit(size_t *value, int limit) { *value = 8 << 20; return 0; }
int cuCtxSetLimit(int limit, size_t value) { return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)0x77; return 0; }
int cuModuleLoad(void **module, const char *file) { return fresh_handle(module); }
int cuModuleLoadData(void **module, const void *image) { return fresh_handle(module); }
int cuModuleLoadDataEx(void **module, const void *image, unsigned count, void *options, void *values) { return fresh_handle(module); }
int cuFuncGetAttribute(int *value, int attribute, void *function) { *value = attribute == 4 ? 32 : attribute == 0 ? 1024 : 0; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "null GPU error"; return 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, size_t shared) { *blocks = 4; return 0; }
int cuOccupancyMaxActiveClusters(int *clusters, void *function, void *config) { *clusters = 16; return 0; }
int cuStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
