/* Streams that are threads, events that are times, and recordings of what was put into a stream. */
#include "fake_cuda.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef enum { TO_DEVICE, FROM_DEVICE, FILL, CALL_HOST, MARK } Kind;

typedef struct Operation {
    struct Operation *next;
    Kind kind;
    Address device;
    void *host;
    size_t size;
    int value;
    HostFunction function;
    Event *event;
} Operation;

typedef struct {
    Operation *first, *last;
} Queue;

struct Event {
    uint32_t magic;
    int owners; /* the handle, and every operation that will mark it */
    bool recorded, done, captured;
    double ms;
};

struct Graph {
    uint32_t magic;
    Queue operations;
};

struct Stream {
    uint32_t magic;
    Stream *next;
    Queue waiting;
    bool busy, closing, forgotten; /* forgotten: from before a reset */
    Graph *recording;
    bool disturbed;
    pthread_t recorder;
    pthread_cond_t changed;
};

#define STREAM 0x57AEA0u
#define EVENT 0xE7E27u
#define GRAPH 0x6AA9Bu
#define EXECUTABLE 0xE8EC0u

static Stream *streams;
static pthread_mutex_t queue_mutex = PTHREAD_MUTEX_INITIALIZER;

static double now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static void append(Queue *queue, Operation *operation) {
    operation->next = NULL;
    *(queue->last ? &queue->last->next : &queue->first) = operation;
    queue->last = operation;
}

static Operation *copied(const Operation *operation) {
    Operation *copy = malloc(sizeof *copy);
    *copy = *operation;
    if (copy->event) copy->event->owners++;
    return copy;
}

static void drop_event(Event *event) {
    if (--event->owners == 0) {
        event->magic = 0;
        free(event);
    }
}

static void drop_operation(Operation *operation) {
    if (operation->event) drop_event(operation->event);
    free(operation);
}

static void clear(Queue *queue) {
    for (Operation *held = queue->first; held;) {
        Operation *next = held->next;
        drop_operation(held);
        held = next;
    }
    queue->first = queue->last = NULL;
}

/* What a GPU does at last: the memory must still be there now. */
static void move_bytes(const Operation *operation) {
    lock();
    if (state.lost != OK) {  /* lost, and freed by its user, since the operation was begun */
        unlock();
        return;
    }
    void *device = host_pointer(operation->device, operation->size);
    if (device == NULL) {
        state.counts.use_after_free++;
        lose_device(ILLEGAL_ADDRESS);
    } else if (operation->kind == TO_DEVICE) {
        memcpy(device, operation->host, operation->size);
    } else if (operation->kind == FROM_DEVICE) {
        memcpy(operation->host, device, operation->size);
    } else {
        memset(device, operation->value, operation->size);
    }
    unlock();
}

static void execute(const Operation *operation) {
    if (state.delay_us > 0) usleep((useconds_t)state.delay_us);
    if (operation->kind == MARK) {
        operation->event->ms = now_ms();
        operation->event->done = true;
    } else if (state.lost != OK) {
        return;
    } else if (operation->kind == CALL_HOST) {
        operation->function(operation->host);
    } else {
        move_bytes(operation);
    }
}

static void *work(void *argument) {
    Stream *stream = argument;
    pthread_mutex_lock(&queue_mutex);
    while (true) {
        while (stream->waiting.first == NULL && !stream->closing)
            pthread_cond_wait(&stream->changed, &queue_mutex);
        Operation *operation = stream->waiting.first;
        if (operation == NULL) break;
        stream->waiting.first = operation->next;
        if (operation->next == NULL) stream->waiting.last = NULL;
        stream->busy = true;
        pthread_mutex_unlock(&queue_mutex);
        execute(operation);
        pthread_mutex_lock(&queue_mutex);
        drop_operation(operation);
        stream->busy = false;
        pthread_cond_broadcast(&stream->changed);
    }
    Stream **place = &streams;
    while (*place != stream) place = &(*place)->next;
    *place = stream->next;
    stream->magic = 0;
    pthread_mutex_unlock(&queue_mutex);
    pthread_cond_destroy(&stream->changed);
    free(stream);
    return NULL;
}

static bool known(const Stream *stream) {
    bool found = false;
    pthread_mutex_lock(&queue_mutex);
    for (Stream *held = streams; held; held = held->next) found |= held == stream && !held->closing;
    pthread_mutex_unlock(&queue_mutex);
    return found;
}

static int enqueue(Stream *stream, Operation wanted) {
    if (!known(stream)) return INVALID_HANDLE;
    pthread_mutex_lock(&queue_mutex);
    int code = stream->disturbed ? CAPTURE_INVALIDATED : OK;
    if (code == OK) {
        append(stream->recording ? &stream->recording->operations : &stream->waiting, copied(&wanted));
        pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&queue_mutex);
    return code;
}

static int enqueue_bytes(Stream *stream, Operation wanted) {
    lock();
    bool there = host_pointer(wanted.device, wanted.size) != NULL;
    unlock();
    return there ? enqueue(stream, wanted) : INVALID_VALUE;
}

bool disturbs_capture(void) {
    bool disturbed = false;
    pthread_mutex_lock(&queue_mutex);
    for (Stream *held = streams; held; held = held->next)
        if (held->recording && pthread_equal(held->recorder, pthread_self())) held->disturbed = disturbed = true;
    pthread_mutex_unlock(&queue_mutex);
    return disturbed;
}

long pending_operations(void) {
    long count = 0;
    pthread_mutex_lock(&queue_mutex);
    for (Stream *held = streams; held; held = held->next) {
        count += held->busy;
        for (Operation *operation = held->waiting.first; operation; operation = operation->next) count++;
    }
    pthread_mutex_unlock(&queue_mutex);
    return count;
}

void reset_streams(void) {
    pthread_mutex_lock(&queue_mutex);
    for (Stream *held = streams; held; held = held->next) {
        clear(&held->waiting);
        held->recording = NULL, held->disturbed = false, held->forgotten = true;
    }
    pthread_mutex_unlock(&queue_mutex);
}

/* ---- streams ---- */

EXPORT int cuStreamCreate(Stream **stream, unsigned flags) {
    CALL(true);
    if (flags > 1) return INVALID_VALUE;
    Stream *made = calloc(1, sizeof *made);
    made->magic = STREAM;
    pthread_cond_init(&made->changed, NULL);
    pthread_mutex_lock(&queue_mutex);
    made->next = streams, streams = made;
    pthread_mutex_unlock(&queue_mutex);
    pthread_t thread;
    pthread_create(&thread, NULL, work, made);
    pthread_detach(thread);
    lock();
    state.counts.live_streams++;
    unlock();
    *stream = made;
    return OK;
}

/* Returns at once: what is in the stream is still done, as with the real driver. */
EXPORT int cuStreamDestroy_v2(Stream *stream) {
    int failed = enter(__func__, true);
    if (!known(stream)) return failed != OK ? failed : INVALID_HANDLE;
    lock();
    if (!stream->forgotten) state.counts.live_streams--;
    unlock();
    pthread_mutex_lock(&queue_mutex);
    stream->closing = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&queue_mutex);
    return failed;
}

EXPORT int cuStreamSynchronize(Stream *stream) {
    CALL(true);
    if (!known(stream)) return INVALID_HANDLE;
    pthread_mutex_lock(&queue_mutex);
    if (stream->recording) {
        stream->disturbed = true;
        pthread_mutex_unlock(&queue_mutex);
        return CAPTURE_UNSUPPORTED;
    }
    while (stream->waiting.first || stream->busy) pthread_cond_wait(&stream->changed, &queue_mutex);
    pthread_mutex_unlock(&queue_mutex);
    return state.lost;
}

EXPORT int cuStreamQuery(Stream *stream) {
    CALL(true);
    if (!known(stream)) return INVALID_HANDLE;
    pthread_mutex_lock(&queue_mutex);
    bool idle = stream->waiting.first == NULL && !stream->busy;
    pthread_mutex_unlock(&queue_mutex);
    return idle ? state.lost : NOT_READY;
}

EXPORT int cuLaunchHostFunc(Stream *stream, HostFunction function, void *data) {
    CALL(true);
    return enqueue(stream, (Operation){.kind = CALL_HOST, .function = function, .host = data});
}

EXPORT int cuMemcpyHtoDAsync_v2(Address device, const void *host, size_t size, Stream *stream) {
    CALL(true);
    return enqueue_bytes(stream, (Operation){.kind = TO_DEVICE, .device = device, .host = (void *)host, .size = size});
}

EXPORT int cuMemcpyDtoHAsync_v2(void *host, Address device, size_t size, Stream *stream) {
    CALL(true);
    return enqueue_bytes(stream, (Operation){.kind = FROM_DEVICE, .device = device, .host = host, .size = size});
}

EXPORT int cuMemsetD8Async(Address device, unsigned char value, size_t size, Stream *stream) {
    CALL(true);
    return enqueue_bytes(stream, (Operation){.kind = FILL, .device = device, .value = value, .size = size});
}

/* ---- events ---- */

EXPORT int cuEventCreate(Event **event, unsigned flags) {
    CALL(true);
    (void)flags;
    Event *made = calloc(1, sizeof *made);
    made->magic = EVENT, made->owners = 1;
    lock();
    state.counts.live_events++;
    unlock();
    *event = made;
    return OK;
}

EXPORT int cuEventDestroy_v2(Event *event) {
    int failed = enter(__func__, true);
    lock();
    state.counts.live_events--;
    unlock();
    pthread_mutex_lock(&queue_mutex);
    drop_event(event);
    pthread_mutex_unlock(&queue_mutex);
    return failed;
}

EXPORT int cuEventRecord(Event *event, Stream *stream) {
    CALL(true);
    if (event->magic != EVENT) return INVALID_HANDLE;
    event->recorded = true, event->done = false;
    if (known(stream)) event->captured = stream->recording != NULL;
    return enqueue(stream, (Operation){.kind = MARK, .event = event});
}

EXPORT int cuEventQuery(Event *event) {
    CALL(true);
    return event->recorded && !event->done ? NOT_READY : OK;
}

EXPORT int cuEventSynchronize(Event *event) {
    CALL(true);
    while (event->recorded && !event->done) usleep(100);
    return OK;
}

EXPORT int cuEventElapsedTime(float *ms, Event *start, Event *end) {
    CALL(true);
    if (!start->recorded || !end->recorded || start->captured || end->captured) return INVALID_HANDLE;
    if (!start->done || !end->done) return NOT_READY;
    *ms = (float)(end->ms - start->ms);
    return OK;
}

/* ---- recordings ---- */

EXPORT int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    CALL(true);
    if (!known(stream)) return INVALID_HANDLE;
    if (stream->recording || mode < 0 || mode > 2) return INVALID_VALUE;
    Graph *graph = calloc(1, sizeof *graph);
    graph->magic = GRAPH;
    pthread_mutex_lock(&queue_mutex);
    stream->recording = graph, stream->disturbed = false, stream->recorder = pthread_self();
    pthread_mutex_unlock(&queue_mutex);
    return OK;
}

/* Ends the recording in every case, also where it answers an error. */
EXPORT int cuStreamEndCapture(Stream *stream, Graph **graph) {
    int failed = enter(__func__, true);
    *graph = NULL;
    if (!known(stream)) return failed != OK ? failed : INVALID_HANDLE;
    pthread_mutex_lock(&queue_mutex);
    Graph *made = stream->recording;
    if (failed == OK) failed = made == NULL ? INVALID_VALUE : stream->disturbed ? CAPTURE_INVALIDATED : OK;
    stream->recording = NULL, stream->disturbed = false;
    if (failed != OK && made != NULL) {
        clear(&made->operations);
        free(made);
    }
    pthread_mutex_unlock(&queue_mutex);
    if (failed != OK) return failed;
    lock();
    state.counts.live_graphs++;
    unlock();
    *graph = made;
    return OK;
}

EXPORT int cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long flags) {
    CALL(true);
    if (graph == NULL || graph->magic != GRAPH) return INVALID_HANDLE;
    if (flags != 0) return INVALID_VALUE;
    Graph *made = calloc(1, sizeof *made);
    made->magic = EXECUTABLE;
    pthread_mutex_lock(&queue_mutex);
    for (Operation *held = graph->operations.first; held; held = held->next)
        append(&made->operations, copied(held));
    pthread_mutex_unlock(&queue_mutex);
    lock();
    state.counts.live_executables++;
    unlock();
    *executable = made;
    return OK;
}

EXPORT int cuGraphLaunch(Graph *executable, Stream *stream) {
    CALL(true);
    if (executable == NULL || executable->magic != EXECUTABLE) return INVALID_HANDLE;
    for (Operation *held = executable->operations.first; held; held = held->next) {
        int code = enqueue(stream, *held);
        if (code != OK) return code;
    }
    return OK;
}

static int destroy(Graph *graph, uint32_t magic, long *count, int failed) {
    if (graph == NULL || graph->magic != magic) {
        lock();
        state.counts.bad_frees++;
        unlock();
        return INVALID_HANDLE;
    }
    graph->magic = 0; /* kept for good, so that destroying it again is seen */
    pthread_mutex_lock(&queue_mutex);
    clear(&graph->operations);
    pthread_mutex_unlock(&queue_mutex);
    lock();
    --*count;
    unlock();
    return failed;
}

EXPORT int cuGraphExecDestroy(Graph *executable) {
    int failed = enter(__func__, true);
    return destroy(executable, EXECUTABLE, &state.counts.live_executables, failed);
}

EXPORT int cuGraphDestroy(Graph *graph) {
    int failed = enter(__func__, true);
    return destroy(graph, GRAPH, &state.counts.live_graphs, failed);
}
