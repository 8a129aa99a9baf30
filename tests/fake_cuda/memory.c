/* Blocks of memory: guards on both sides, addresses of the device that are no host addresses, freed blocks kept a while. */
#include "fake_cuda.h"

#include <stdlib.h>
#include <string.h>

#define GUARD 256
#define GUARD_BYTE 0xA5
#define FRESH_BYTE 0xAB
#define FREED_BYTE 0xDD
#define PAGE 4096
#define ALIGNMENT 256
#define QUARANTINE 64
#define FIRST_ADDRESS ((Address)0x300000000000)

typedef struct Block {
    struct Block *next;
    unsigned char *raw, *host; /* the guard begins `GUARD` bytes before host */
    Address device;
    size_t size;
    bool pinned;
} Block;

static Block *live;
static Block *freed[QUARANTINE];
static int freed_next;
static Address next_address = FIRST_ADDRESS;

static bool all(const unsigned char *bytes, size_t count, unsigned char value) {
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != value) return false;
    return true;
}

static bool intact(const Block *block) {
    return all(block->host - GUARD, GUARD, GUARD_BYTE) && all(block->host + block->size, GUARD, GUARD_BYTE);
}

static void dispose(Block *block) {
    if (block == NULL) return;
    if (!all(block->host, block->size, FREED_BYTE)) state.counts.use_after_free++;
    free(block->raw);
    free(block);
}

/* Device blocks are aligned to 256 bytes and to no more, pinned ones to a page, as the real driver promises. */
static Block *new_block(size_t size, bool pinned) {
    Block *block = calloc(1, sizeof *block);
    size_t alignment = pinned ? PAGE : ALIGNMENT;
    block->raw = malloc(size + 2 * GUARD + 2 * alignment);
    uintptr_t start = ((uintptr_t)block->raw + GUARD + alignment - 1) / alignment * alignment;
    if (!pinned && start % (2 * ALIGNMENT) == 0) start += ALIGNMENT;
    block->host = (unsigned char *)start;
    block->size = size, block->pinned = pinned;
    block->device = next_address + (pinned ? 0 : ALIGNMENT);
    next_address += (size / PAGE + 3) * PAGE;
    memset(block->host - GUARD, GUARD_BYTE, GUARD);
    memset(block->host, FRESH_BYTE, size);
    memset(block->host + size, GUARD_BYTE, GUARD);
    block->next = live, live = block;
    state.counts.live_blocks++;
    *(pinned ? &state.counts.pinned_bytes : &state.counts.device_bytes) += size;
    return block;
}

static size_t taken(void) {
    return state.counts.device_bytes + (state.integrated ? state.counts.pinned_bytes : 0);
}

static int allocate(size_t size, bool pinned, Block **block) {
    if (size == 0) return INVALID_VALUE;
    if (disturbs_capture()) return CAPTURE_UNSUPPORTED;
    lock();
    bool full = (!pinned || state.integrated) && taken() + size > state.memory;
    *block = full ? NULL : new_block(size, pinned);
    unlock();
    return full ? OUT_OF_MEMORY : OK;
}

static int release(Block **place) {
    Block *block = *place;
    if (block == NULL) {
        state.counts.bad_frees++;
        return INVALID_VALUE;
    }
    *place = block->next;
    if (!intact(block)) state.counts.damaged_guards++;
    memset(block->host, FREED_BYTE, block->size);
    state.counts.live_blocks--;
    *(block->pinned ? &state.counts.pinned_bytes : &state.counts.device_bytes) -= block->size;
    dispose(freed[freed_next]);
    freed[freed_next] = block;
    freed_next = (freed_next + 1) % QUARANTINE;
    return OK;
}

static Block **find_device(Address address) {
    Block **place = &live;
    while (*place && ((*place)->device != address || (*place)->pinned)) place = &(*place)->next;
    return place;
}

static Block **find_host(const void *pointer) {
    Block **place = &live;
    while (*place && ((*place)->host != pointer || !(*place)->pinned)) place = &(*place)->next;
    return place;
}

void *host_pointer(Address address, size_t size) {
    for (Block *block = live; block; block = block->next) {
        if (address >= block->device && address + size <= block->device + block->size)
            return block->host + (address - block->device);
        Address host = (uintptr_t)block->host; /* pinned memory is known by its host address too */
        if (block->pinned && address >= host && address + size <= host + block->size) return (void *)address;
    }
    return NULL;
}

void check_guards(void) {
    lock();
    for (Block *block = live; block; block = block->next)
        if (!intact(block)) state.counts.damaged_guards++;
    for (int i = 0; i < QUARANTINE; i++) {
        dispose(freed[i]);
        freed[i] = NULL;
    }
    unlock();
}

void reset_memory(void) {
    lock();
    while (live) release(&live);
    unlock();
    check_guards();
}

/* Translates an address of the device for a test; NULL where `size` bytes are not allocated there. */
EXPORT void *fake_cuda_host_pointer(Address address, size_t size) {
    lock();
    void *pointer = host_pointer(address, size);
    unlock();
    return pointer;
}

EXPORT int cuMemAlloc_v2(Address *address, size_t size) {
    CALL(true);
    Block *block = NULL;
    int code = allocate(size, false, &block);
    if (code == OK) *address = block->device;
    return code;
}

EXPORT int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    CALL(true);
    (void)flags;
    Block *block = NULL;
    int code = allocate(size, true, &block);
    if (code == OK) *pointer = block->host;
    return code;
}

/* A block whose free is refused counts as given back all the same: its owner has done what it can. */
EXPORT int cuMemFree_v2(Address address) {
    int failed = enter(__func__, true);
    if (failed == OK && disturbs_capture()) return CAPTURE_UNSUPPORTED;
    lock();
    int code = release(find_device(address));
    unlock();
    return failed != OK ? failed : code;
}

EXPORT int cuMemFreeHost(void *pointer) {
    int failed = enter(__func__, true);
    if (failed == OK && disturbs_capture()) return CAPTURE_UNSUPPORTED;
    lock();
    int code = release(find_host(pointer));
    unlock();
    return failed != OK ? failed : code;
}

EXPORT int cuMemHostGetDevicePointer_v2(Address *address, void *pointer, unsigned flags) {
    CALL(true);
    lock();
    Block *block = *find_host(pointer);
    if (block) *address = block->device;
    unlock();
    return block && flags == 0 ? OK : INVALID_VALUE;
}

EXPORT int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    CALL(true);
    lock();
    *free_bytes = state.free_memory ? state.free_memory : state.memory - taken();
    *total = state.memory;
    unlock();
    return OK;
}
