/* State, faults to come, the device and its contexts, and what tests ask of the library. */
#include "fake_cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CALLS 256
#define MAX_RULES 64
#define CONTEXT ((void *)0xC0D7)

typedef struct {
    char name[64];
    long count;
} CallCount;

typedef struct {
    char name[64];
    long nth; /* the call that fails, counted from 1 from now on; 0: every call */
    int code;
    bool sticky;
    long seen;
} Rule;

State state = {.memory = (size_t)1 << 30};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static CallCount calls[MAX_CALLS];
static int call_kinds;
static Rule rules[MAX_RULES];
static int rule_count;
static _Thread_local long depth;
static pthread_key_t depth_key;

void lock(void) { pthread_mutex_lock(&mutex); }
void unlock(void) { pthread_mutex_unlock(&mutex); }

static void thread_ends(void *value) {
    lock();
    if (*(long *)value > 0) state.counts.abandoned_contexts++;
    unlock();
    free(value);
}

static void push_depth(long step) {
    long *held = pthread_getspecific(depth_key);
    if (held == NULL) {
        held = calloc(1, sizeof *held);
        pthread_setspecific(depth_key, held);
    }
    depth += step;
    *held = depth;
}

static bool answers_without_device(const char *name) {
    return strncmp(name, "cuGetError", 10) == 0 || strcmp(name, "cuDriverGetVersion") == 0 ||
           strncmp(name, "cuCtxP", 6) == 0 || strncmp(name, "cuDevice", 8) == 0;
}

static int injected(const char *name) {
    for (int i = 0; i < rule_count; i++) {
        Rule *rule = &rules[i];
        if (strcmp(rule->name, name) != 0) continue;
        rule->seen++;
        if (rule->nth != 0 && rule->seen != rule->nth) continue;
        if (rule->sticky) state.lost = rule->code;
        return rule->code;
    }
    return OK;
}

int enter(const char *name, bool context) {
    lock();
    int place = 0;
    while (place < call_kinds && strcmp(calls[place].name, name) != 0) place++;
    if (place == call_kinds && call_kinds < MAX_CALLS) {
        snprintf(calls[call_kinds].name, sizeof calls[0].name, "%s", name);
        calls[call_kinds++].count = 0;
    }
    if (place < MAX_CALLS) calls[place].count++;
    int code = injected(name);
    if (code == OK && state.lost != OK && !answers_without_device(name)) code = state.lost;
    if (code == OK && context && depth == 0) {
        state.counts.without_context++;
        code = INVALID_CONTEXT;
    }
    unlock();
    return code;
}

void lose_device(int code) {
    if (state.lost == OK) state.lost = code;
}

/* Called by the functions that exist only so that a binding can be loaded. */
EXPORT int fake_cuda_absent(const char *name) {
    int code = enter(name, false);
    return code == OK ? NOT_SUPPORTED : code;
}

/* ---- what tests ask of the library ---- */

EXPORT void fake_cuda_fail(const char *name, long nth, int code, int sticky) {
    lock();
    if (rule_count < MAX_RULES) {
        Rule *rule = &rules[rule_count++];
        snprintf(rule->name, sizeof rule->name, "%s", name);
        rule->nth = nth, rule->code = code, rule->sticky = sticky != 0, rule->seen = 0;
    }
    unlock();
}

EXPORT void fake_cuda_no_faults(void) {
    lock();
    rule_count = 0, state.lost = OK;
    unlock();
}

EXPORT void fake_cuda_configure(int integrated, size_t memory, size_t free_memory, int delay_us) {
    lock();
    state.integrated = integrated != 0, state.memory = memory;
    state.free_memory = free_memory, state.delay_us = delay_us;
    unlock();
}

EXPORT void fake_cuda_forget_calls(void) {
    lock();
    call_kinds = 0;
    unlock();
}

/* Back to the beginning; what is still allocated is given up. */
EXPORT void fake_cuda_reset(void) {
    reset_streams();
    reset_memory();
    lock();
    call_kinds = rule_count = 0;
    state.lost = OK;
    memset(&state.counts, 0, sizeof state.counts);
    unlock();
    fake_cuda_configure(0, (size_t)1 << 30, 0, 0);
}

EXPORT int fake_cuda_report(char *text, size_t size) {
    check_guards();
    long pending = pending_operations();
    lock();
    const Counts *c = &state.counts;
    size_t used = (size_t)snprintf(
        text, size,
        "{\"live_blocks\": %ld, \"live_streams\": %ld, \"live_events\": %ld, \"live_graphs\": %ld, "
        "\"live_executables\": %ld, \"pending\": %ld, \"damaged_guards\": %ld, \"use_after_free\": %ld, "
        "\"bad_frees\": %ld, \"without_context\": %ld, \"abandoned_contexts\": %ld, \"device_bytes\": %zu, "
        "\"pinned_bytes\": %zu, \"lost\": %d, \"calls\": {",
        c->live_blocks, c->live_streams, c->live_events, c->live_graphs, c->live_executables, pending,
        c->damaged_guards, c->use_after_free, c->bad_frees, c->without_context, c->abandoned_contexts,
        c->device_bytes, c->pinned_bytes, state.lost);
    for (int i = 0; i < call_kinds && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s\"%s\": %ld", i ? ", " : "", calls[i].name,
                                 calls[i].count);
    if (used < size) used += (size_t)snprintf(text + used, size - used, "}}");
    unlock();
    return used < size ? 0 : 1;
}

/* FAKE_CUDA_FAIL=name:nth:code[:sticky],...  FAKE_CUDA_INTEGRATED=1  FAKE_CUDA_MEMORY=bytes  FAKE_CUDA_DELAY_US=n */
__attribute__((constructor)) static void load(void) {
    pthread_key_create(&depth_key, thread_ends);
    const char *told = getenv("FAKE_CUDA_FAIL");
    char *copy = told ? strdup(told) : NULL, *rest = NULL;
    for (char *rule = copy ? strtok_r(copy, ",", &rest) : NULL; rule; rule = strtok_r(NULL, ",", &rest)) {
        char name[64];
        long nth = 0;
        int code = ILLEGAL_ADDRESS;
        int found = sscanf(rule, "%63[^:]:%ld:%d", name, &nth, &code);
        if (found >= 1) fake_cuda_fail(name, nth, code, strstr(rule, ":sticky") != NULL);
    }
    free(copy);
    const char *integrated = getenv("FAKE_CUDA_INTEGRATED"), *memory = getenv("FAKE_CUDA_MEMORY");
    const char *delay = getenv("FAKE_CUDA_DELAY_US");
    fake_cuda_configure(integrated && atoi(integrated), memory ? strtoull(memory, NULL, 10) : (size_t)1 << 30, 0,
                        delay ? atoi(delay) : 0);
}

/* FAKE_CUDA_REPORT=file: what fake_cuda_report tells, when the process ends. */
__attribute__((destructor)) static void unload(void) {
    const char *path = getenv("FAKE_CUDA_REPORT");
    FILE *file = path ? fopen(path, "w") : NULL;
    char text[16384];
    if (file == NULL) return;
    if (fake_cuda_report(text, sizeof text) == 0) fputs(text, file);
    fclose(file);
}

/* ---- device and contexts ---- */

EXPORT int cuInit(unsigned flags) {
    CALL(false);
    state.initialized = true;
    return flags == 0 ? OK : INVALID_VALUE;
}

EXPORT int cuDriverGetVersion(int *version) {
    CALL(false);
    *version = 12060;
    return OK;
}

EXPORT int cuDeviceGetCount(int *count) {
    CALL(false);
    *count = 1;
    return state.initialized ? OK : NOT_INITIALIZED;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
    CALL(false);
    *device = 0;
    return !state.initialized ? NOT_INITIALIZED : ordinal == 0 ? OK : INVALID_DEVICE;
}

EXPORT int cuDeviceGetName(char *name, int size, int device) {
    CALL(false);
    snprintf(name, (size_t)size, "Fake GPU");
    return device == 0 ? OK : INVALID_DEVICE;
}

EXPORT int cuDeviceComputeCapability(int *major, int *minor, int device) {
    CALL(false);
    *major = 8, *minor = 7;
    return device == 0 ? OK : INVALID_DEVICE;
}

EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    CALL(false);
    *bytes = state.memory;
    return device == 0 ? OK : INVALID_DEVICE;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    CALL(false);
    switch (attribute) {
    case 18: *value = state.integrated; break; /* INTEGRATED */
    case 19: *value = 1; break;                /* CAN_MAP_HOST_MEMORY */
    case 75: *value = 8; break;                /* COMPUTE_CAPABILITY_MAJOR */
    case 76: *value = 7; break;                /* COMPUTE_CAPABILITY_MINOR */
    default: *value = 0;
    }
    return device == 0 ? OK : INVALID_DEVICE;
}

EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
    CALL(false);
    *context = CONTEXT;
    return device == 0 ? OK : INVALID_DEVICE;
}

EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
    CALL(false);
    return device == 0 ? OK : INVALID_DEVICE;
}

EXPORT int cuCtxPushCurrent_v2(void *context) {
    CALL(false);
    if (context != CONTEXT) return INVALID_CONTEXT;
    push_depth(1);
    return OK;
}

EXPORT int cuCtxPopCurrent_v2(void **context) {
    CALL(true);
    push_depth(-1);
    if (context != NULL) *context = CONTEXT;
    return OK;
}

EXPORT int cuCtxGetDevice(int *device) {
    CALL(true);
    *device = 0;
    return OK;
}

EXPORT int cuGetErrorString(int code, const char **text) {
    CALL(false);
    switch (code) {
    case OK: *text = "no error"; break;
    case INVALID_VALUE: *text = "invalid argument"; break;
    case OUT_OF_MEMORY: *text = "out of memory"; break;
    case 100: *text = "no CUDA-capable device is detected"; break;
    case INVALID_CONTEXT: *text = "invalid device context"; break;
    case INVALID_HANDLE: *text = "invalid resource handle"; break;
    case NOT_READY: *text = "device not ready"; break;
    case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
    case NOT_SUPPORTED: *text = "operation not supported"; break;
    case CAPTURE_UNSUPPORTED: *text = "operation not permitted when stream is capturing"; break;
    case CAPTURE_INVALIDATED: *text = "operation failed due to a previous error during capture"; break;
    default: *text = "unknown error";
    }
    return OK;
}
