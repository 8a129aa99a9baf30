/* A driver for CUDA without a GPU: the part of libcuda.so.1 that pycuda and edge-ad call, for tests.
 *
 * "Device memory" is host memory with guard bytes on both sides, under addresses that are no host addresses. A stream
 * is a thread that takes one operation after the other, so work is as asynchronous as on a GPU. Every call can be made
 * to fail. Types are as wide as those of cuda.h; nothing of NVIDIA's headers is needed to build this.
 */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t Address; /* CUdeviceptr */
typedef struct Stream Stream;
typedef struct Event Event;
typedef struct Graph Graph;
typedef void (*HostFunction)(void *);

enum Result {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

/* What an owner of the library did wrong or has not given back; see fake_cuda_report. */
typedef struct {
    long live_blocks, live_streams, live_events, live_graphs, live_executables;
    long damaged_guards, use_after_free, bad_frees, without_context, abandoned_contexts, unordered_reads;
    size_t device_bytes, pinned_bytes;
} Counts;

typedef struct {
    bool initialized, integrated;
    size_t memory, free_memory; /* free_memory 0: what is left of memory */
    int delay_us;               /* what every operation in a stream takes at least */
    int lost;                   /* the error that every call answers since the device was lost */
    Counts counts;
} State;

extern State state;

void lock(void);
void unlock(void);

/* Count a call and return the error that it has to answer, 0 for none. `context`: it needs a current context. */
int enter(const char *name, bool context);
void lose_device(int code);

#define CALL(context)                           \
    do {                                        \
        int failed = enter(__func__, context);  \
        if (failed != OK) return failed;        \
    } while (0)

/* Host address of `size` bytes of a live block, NULL where they are not allocated. Call it with the lock held. */
void *host_pointer(Address address, size_t size);
void check_guards(void);
void reset_memory(void);

/* Whether this thread records a stream, in which calls that wait or allocate are not allowed; ends the recording. */
bool disturbs_capture(void);
long pending_operations(void);
void reset_streams(void);

#endif
