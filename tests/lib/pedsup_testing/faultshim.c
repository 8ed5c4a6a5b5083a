/* Interposed before libc: at the n-th write, fsync, rename, truncate or unlink below a folder the
 * process is killed (after half of the bytes) or the call fails. Every call there is counted, in
 * all threads.
 *
 *   cc -shared -fPIC -o faultshim.so faultshim.c -ldl ; LD_PRELOAD=.../faultshim.so python ...
 *   pedsup_fault_arm(root, n, error)   error > 0: that errno; -1: SIGKILL; n = 0: count only
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static long point;
static int error;
static atomic_int armed;
static atomic_long count;
static char calls[1 << 16]; /* what each counted call was: the first letter of its name, t: truncate */

void pedsup_fault_arm(const char *folder, long at, int what) {
    atomic_store(&armed, 0);
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    point = at;
    error = what;
    atomic_store(&count, 0);
    memset(calls, 0, sizeof calls);
    atomic_store(&armed, 1);
}

const char *pedsup_fault_calls(void) { return calls; }

static int below(const char *path) { return path && !strncmp(path, root, root_length); }

static int fd_below(int fd) {
    char link[64], target[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, target, sizeof target - 1);
    if (n < 0) return 0;
    target[n] = 0;
    return below(target);
}

/* 1: this is the point. After it every call fails too, as on a disk that stays full. */
static int hit(char call) {
    long n = atomic_fetch_add(&count, 1) + 1;
    if (n < (long)sizeof calls) calls[n - 1] = call;
    return point > 0 && (error > 0 ? n >= point : n == point);
}

static int fail(void) {
    if (error < 0) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    errno = error;
    return -1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (atomic_load(&armed) && fd_below(fd) && hit('w')) {
        if (n > 1) (void)!real(fd, data, n / 2);
        return fail();
    }
    return real(fd, data, n);
}

/* C++ streams, and so torch.save, write their buffer and what exceeds it in one call. */
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (atomic_load(&armed) && fd_below(fd) && hit('w')) {
        if (n > 1) (void)!real(fd, parts, n / 2); /* the parts are of unlike size: not in the middle */
        return fail();
    }
    return real(fd, parts, n);
}

static ssize_t positioned(ssize_t (*real)(int, const void *, size_t, off_t), int fd,
                          const void *data, size_t n, off_t at) {
    if (atomic_load(&armed) && fd_below(fd) && hit('p')) {
        if (n > 1) (void)!real(fd, data, n / 2, at);
        return fail();
    }
    return real(fd, data, n, at);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return positioned(real, fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    return positioned(real, fd, data, n, at);
}

#define ON_FD(name) \
    int name(int fd) { \
        REAL(int, #name, int); \
        if (atomic_load(&armed) && fd_below(fd) && hit('f')) return fail(); \
        return real(fd); \
    }
ON_FD(fsync)
ON_FD(fdatasync)

#define TRUNCATE(name) \
    int name(int fd, off_t n) { \
        REAL(int, #name, int, off_t); \
        if (atomic_load(&armed) && fd_below(fd) && hit('t')) return fail(); \
        return real(fd, n); \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

int rename(const char *old, const char *new) {
    REAL(int, "rename", const char *, const char *);
    if (atomic_load(&armed) && (below(old) || below(new)) && hit('r')) return fail();
    return real(old, new);
}

/* Deleting is no reason to fail on a full disk: only the kill is tried there. */
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (atomic_load(&armed) && error < 0 && below(path) && hit('u')) return fail();
    return real(path);
}

/* Python's shutil.rmtree: a name in an open folder, or with AT_REMOVEDIR the folder itself. */
int unlinkat(int folder, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    if (atomic_load(&armed) && error < 0 && (below(path) || fd_below(folder)) && hit('u'))
        return fail();
    return real(folder, path, flags);
}
