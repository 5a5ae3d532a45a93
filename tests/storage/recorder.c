/* Records what a process does to files below $RECORD_BELOW, in order, into $RECORD_TO; to be preloaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static int below(const char *path) {
    const char *root = getenv("RECORD_BELOW");
    return root && path && strncmp(path, root, strlen(root)) == 0;
}

/* A record: kind, inode, lengths of both parts, both parts. */
static void record(char kind, uint64_t inode, const void *a, uint64_t la, const void *b, uint64_t lb) {
    static int log = -1;
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    int (*opened)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    if (log < 0) log = opened(getenv("RECORD_TO"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    char head[25];
    head[0] = kind;
    memcpy(head + 1, &inode, 8), memcpy(head + 9, &la, 8), memcpy(head + 17, &lb, 8);
    if (real(log, head, 25) != 25 || real(log, a, la) != (ssize_t)la || real(log, b, lb) != (ssize_t)lb) abort();
}

static uint64_t inode_of(int fd, char *path) {
    char link[64];
    struct stat found;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 4095);
    path[length > 0 ? length : 0] = 0;
    return below(path) && fstat(fd, &found) == 0 ? found.st_ino : 0;
}

#define OPEN(NAME)                                                                            \
    int NAME(const char *path, int flags, ...) {                                              \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #NAME);                        \
        va_list more;                                                                         \
        va_start(more, flags);                                                                \
        int mode = va_arg(more, int);                                                         \
        va_end(more);                                                                         \
        if (!below(path) || !(flags & (O_CREAT | O_TRUNC))) return real(path, flags, mode);   \
        struct stat found;                                                                    \
        pthread_mutex_lock(&turn);                                                            \
        int fd = real(path, flags, mode);                                                     \
        if (fd >= 0 && fstat(fd, &found) == 0) record('o', found.st_ino, path, strlen(path), "", 0); \
        pthread_mutex_unlock(&turn);                                                          \
        return fd;                                                                            \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *data, size_t size) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    char path[4096];
    uint64_t inode = inode_of(fd, path);
    if (!inode) return real(fd, data, size);
    pthread_mutex_lock(&turn);
    ssize_t done = real(fd, data, size);
    if (done > 0) record('w', inode, data, done, "", 0);
    pthread_mutex_unlock(&turn);
    return done;
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    char path[4096];
    uint64_t inode = inode_of(fd, path);
    if (!inode) return real(fd);
    pthread_mutex_lock(&turn);
    record('s', inode, path, strlen(path), "", 0);
    pthread_mutex_unlock(&turn);
    return 0; /* what would be on a disk is worked out from the record */
}

#define TWO(NAME, KIND)                                                          \
    int NAME(const char *a, const char *b) {                                     \
        int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, #NAME);       \
        if (!below(a) && !below(b)) return real(a, b);                           \
        pthread_mutex_lock(&turn);                                               \
        int result = real(a, b);                                                 \
        if (result == 0) record(KIND, 0, a, strlen(a), b, strlen(b));            \
        pthread_mutex_unlock(&turn);                                             \
        return result;                                                           \
    }
TWO(rename, 'r')

int mkdir(const char *path, mode_t mode) {
    int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");
    if (!below(path)) return real(path, mode);
    pthread_mutex_lock(&turn);
    int result = real(path, mode);
    if (result == 0) record('d', 0, path, strlen(path), "", 0);
    pthread_mutex_unlock(&turn);
    return result;
}

int unlink(const char *path) {
    int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
    if (!below(path)) return real(path);
    pthread_mutex_lock(&turn);
    int result = real(path);
    if (result == 0) record('u', 0, path, strlen(path), "", 0);
    pthread_mutex_unlock(&turn);
    return result;
}
