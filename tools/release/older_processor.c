/* Lets the processes of a test run see an older x86-64 processor: AVX2 and FMA, without AVX-512, VNNI, bfloat16 and AMX.
 *
 * Loaded twice by older_processor.sh. As LD_AUDIT it replaces the cpuid instructions of the libraries in a table by ud2
 * (both are two bytes) when they are mapped, before any of their code runs, and answers the traps with what the older
 * processor would say. As LD_PRELOAD it shows a /proc/cpuinfo of that processor and keeps others from taking the trap's
 * signal. The libraries on the disk stay as they are. For tests only.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define MOST 4096
static uintptr_t patched[MOST];
static int count;
static int auditing;

/* Leaf 7 lists what came after AVX2; a bit that is not named here is passed on. */
static void older(uint32_t leaf, uint32_t part, uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d) {
    __cpuid_count(leaf, part, *a, *b, *c, *d);
    if (leaf == 7 && part == 0) {
        *a = 0; /* no further parts: AVX-VNNI, bfloat16 and FP16 are announced there */
        *b &= ~((1u << 16) | (1u << 17) | (1u << 21) | (1u << 26) | (1u << 27) | (1u << 28) | (1u << 30) | (1u << 31));
        *c &= ~((1u << 1) | (1u << 6) | (1u << 8) | (1u << 9) | (1u << 10) | (1u << 11) | (1u << 12) | (1u << 14));
        *d &= ~((1u << 2) | (1u << 3) | (1u << 8) | (1u << 22) | (1u << 23) | (1u << 24) | (1u << 25));
    } else if (leaf == 7) {
        *a = *b = *c = *d = 0;
    }
}

static void answer(int signal_number, siginfo_t *info, void *raw) {
    greg_t *registers = ((ucontext_t *)raw)->uc_mcontext.gregs;
    uint32_t a, b, c, d;
    (void)info;
    for (int i = 0; i < count; i++) {
        if (patched[i] != (uintptr_t)registers[REG_RIP]) continue;
        older((uint32_t)registers[REG_RAX], (uint32_t)registers[REG_RCX], &a, &b, &c, &d);
        registers[REG_RAX] = a;
        registers[REG_RBX] = b;
        registers[REG_RCX] = c;
        registers[REG_RDX] = d;
        registers[REG_RIP] += 2;
        return;
    }
    signal(signal_number, SIG_DFL); /* a true illegal instruction: it is met again and ends the process */
}

static void patch(uintptr_t place) {
    unsigned char *code = (unsigned char *)place;
    uintptr_t page = place & ~(uintptr_t)4095;
    size_t size = (place + 2 - page + 4095) & ~(size_t)4095;
    if (count == MOST || code[0] != 0x0f || code[1] != 0xa2) {
        static const char text[] = "older_processor: the table does not fit a library; remove its cache\n";
        if (write(2, text, sizeof text - 1) < 0) {}
        _exit(125);
    }
    if (mprotect((void *)page, size, PROT_READ | PROT_WRITE | PROT_EXEC)) _exit(125);
    code[1] = 0x0b; /* cpuid is 0f a2, ud2 is 0f 0b */
    mprotect((void *)page, size, PROT_READ | PROT_EXEC);
    patched[count++] = place;
}

unsigned int la_version(unsigned int version) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    (void)version;
    auditing = 1;
    sigaction(SIGILL, &action, NULL);
    return LAV_CURRENT;
}

/* The table has lines "path address address ...", addresses as objdump prints them. */
unsigned int la_objopen(struct link_map *map, Lmid_t space, uintptr_t *cookie) {
    const char *table = getenv("EDGE_AD_OLDER_TABLE");
    char held[4096], *line = NULL;
    size_t room = 0;
    FILE *file;
    (void)space;
    (void)cookie;
    if (!table || !strstr(map->l_name, ".so") || !realpath(map->l_name, held) || !(file = fopen(table, "re"))) return 0;
    while (getline(&line, &room, file) > 0) {
        size_t length = strlen(held);
        if (strncmp(line, held, length) || line[length] != ' ') continue;
        for (char *next = line + length, *end; *next && *next != '\n'; next = end) {
            uintptr_t place = strtoull(next, &end, 16);
            if (end == next) break;
            patch(map->l_addr + place);
        }
    }
    free(line);
    fclose(file);
    return 0;
}

/* What follows acts as LD_PRELOAD. */

static const char *shown(const char *path) {
    const char *other = path && !strcmp(path, "/proc/cpuinfo") ? getenv("EDGE_AD_OLDER_CPUINFO") : NULL;
    return other ? other : path;
}

#define OPEN(name)                                                                      \
    int name(const char *path, int flags, ...) {                                        \
        va_list rest;                                                                   \
        va_start(rest, flags);                                                          \
        int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0;             \
        va_end(rest);                                                                   \
        static int (*next)(const char *, int, ...);                                     \
        if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name);                           \
        return next(shown(path), flags, mode);                                          \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                    \
    int name(int folder, const char *path, int flags, ...) {                            \
        va_list rest;                                                                   \
        va_start(rest, flags);                                                          \
        int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0;             \
        va_end(rest);                                                                   \
        static int (*next)(int, const char *, int, ...);                                \
        if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name);                           \
        return next(folder, shown(path), flags, mode);                                  \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                     \
    FILE *name(const char *path, const char *mode) {                                    \
        static FILE *(*next)(const char *, const char *);                               \
        if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name);                           \
        return next(shown(path), mode);                                                 \
    }
FOPEN(fopen)
FOPEN(fopen64)

int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
    static int (*next)(int, const struct sigaction *, struct sigaction *);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "sigaction");
    if (number == SIGILL && !auditing) {
        if (old) memset(old, 0, sizeof *old);
        return 0;
    }
    return next(number, action, old);
}

#define MASK(name)                                                                      \
    int name(int how, const sigset_t *wanted, sigset_t *old) {                          \
        static int (*next)(int, const sigset_t *, sigset_t *);                          \
        sigset_t changed;                                                               \
        if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name);                           \
        if (!wanted || how == SIG_UNBLOCK) return next(how, wanted, old);               \
        changed = *wanted;                                                              \
        sigdelset(&changed, SIGILL);                                                    \
        return next(how, &changed, old);                                                \
    }
MASK(sigprocmask)
MASK(pthread_sigmask)
