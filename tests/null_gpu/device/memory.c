// The device's memory is the host's, mapped and never touched until something is copied into it (it reads as zero).
#include "device.h"
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096UL
#define RANGES (1 << 16)
#define SMALL_MEMSET 65536
static struct { char *start; size_t size; int pinned; } ranges[RANGES];
static int range_count;
static size_t used;
static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;

static int find(const void *address) {
    const char *at = address;
    for (int i = 0; i < range_count; i++)
        if (ranges[i].start && at >= ranges[i].start && at < ranges[i].start + ranges[i].size) return i;
    return -1;
}
static void remember(char *start, size_t size, int pinned) {
    pthread_mutex_lock(&ranges_lock);
    int i = 0;
    while (i < range_count && ranges[i].start) i++;
    if (i == range_count && range_count < RANGES - 1) range_count++;
    ranges[i].size = size; ranges[i].pinned = pinned; ranges[i].start = start;
    if (!pinned) used += size;
    pthread_mutex_unlock(&ranges_lock);
}
static void forget(void *address, int unmap) {
    pthread_mutex_lock(&ranges_lock);
    int i = find(address);
    if (i >= 0) {
        if (!ranges[i].pinned) used -= ranges[i].size;
        if (unmap) munmap(ranges[i].start, ranges[i].size);
        ranges[i].start = 0;
    }
    pthread_mutex_unlock(&ranges_lock);
}
static int allocate(void **address, size_t bytes, int pinned) {
    size_t size = bytes ? (bytes + PAGE - 1) & ~(PAGE - 1) : PAGE;
    *address = 0;
    if (!pinned && used + size > DEVICE_MEMORY) return OUT_OF_MEMORY;
    char *start = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return OUT_OF_MEMORY;
    remember(start, size, pinned);
    report(ALLOCATION, pinned ? "cudaHostAlloc" : "cudaMalloc", (long)bytes);
    *address = start;
    return 0;
}
int cudaMalloc(void **address, size_t bytes) { return allocate(address, bytes, 0); }
int cudaMallocAsync(void **address, size_t bytes, void *stream) { return allocate(address, bytes, 0); }
int cudaMallocManaged(void **address, size_t bytes, unsigned flags) { return allocate(address, bytes, 0); }
int cudaHostAlloc(void **address, size_t bytes, unsigned flags) { return allocate(address, bytes, 1); }
int cudaMallocHost(void **address, size_t bytes) { return allocate(address, bytes, 1); }
int cudaFree(void *address) { forget(address, 1); return 0; }
int cudaFreeAsync(void *address, void *stream) { forget(address, 1); return 0; }
int cudaFreeHost(void *address) { forget(address, 1); return 0; }
int cudaHostRegister(void *address, size_t bytes, unsigned flags) { remember(address, bytes, 1); return 0; }
int cudaHostUnregister(void *address) { forget(address, 0); return 0; }
int cudaGetSymbolAddress(void **address, const void *symbol) { return allocate(address, 1 << 20, 0); }
int cudaMemGetInfo(size_t *available, size_t *total) { *total = DEVICE_MEMORY; *available = DEVICE_MEMORY - used; return 0; }
int cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *address) {
    int i = find(address);
    memset(attributes, 0, sizeof *attributes);
    attributes->type = i < 0 ? cudaMemoryTypeUnregistered : ranges[i].pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    attributes->device = i < 0 ? -1 : 0;
    attributes->devicePointer = i < 0 ? 0 : (void *)address;
    attributes->hostPointer = i >= 0 && ranges[i].pinned ? (void *)address : 0;
    return 0;
}
int cuPointerGetAttribute(void *value, int attribute, uint64_t address) { *(uint64_t *)value = address; return 0; }

// Copies between host and device are made; those within the device move nothing, as no kernel computes.
static void copy(void *to, const void *from, size_t bytes, int direction) {
    static const char *const directions[] = {"host to host", "host to device", "device to host", "device to device", "copy"};
    const char *what = directions[direction >= 0 && direction <= 4 ? direction : 4];
    int source = find(from), target = find(to);
    if (source < 0 || target < 0) report(PAGEABLE_COPY, what, (long)bytes);
    else if (ranges[source].pinned || ranges[target].pinned) report(PINNED_COPY, what, (long)bytes);
    else { report(DEVICE_COPY, what, (long)bytes); return; }
    memcpy(to, from, bytes);
}
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int direction, void *stream) { copy(to, from, bytes, direction); return 0; }
int cudaMemcpy(void *to, const void *from, size_t bytes, int direction) {
    copy(to, from, bytes, direction);
    report(WAIT, "cudaMemcpy", (long)bytes);
    return 0;
}
int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, int direction, void *stream) {
    report(DEVICE_COPY, "2D", (long)(width * height));
    return 0;
}
int cudaMemcpyToSymbol(const void *symbol, const void *from, size_t bytes, size_t offset, int direction) { return 0; }
int cudaMemsetAsync(void *address, int value, size_t bytes, void *stream) {
    launch("cudaMemset", "cudaMemset");
    if (bytes <= SMALL_MEMSET) memset(address, value, bytes);
    return 0;
}
int cudaMemset(void *address, int value, size_t bytes) { return cudaMemsetAsync(address, value, bytes, 0); }
