// Injects faults of disk, clock and power between a process and the system. Loaded with LD_PRELOAD.
//
// SHIM names a folder. Its file `control` is mapped, so that changes take effect in a running process
// at once: first the milliseconds that are added to the wall clock (8 bytes), then lines `OPERATION
// PART ERRNO`. An operation on a file below SHIM_DATA whose relative path contains PART (`*`: any)
// fails with that error; a write with the error 0 is short. Operations: open (for writing), write,
// grow (a write beyond the end of the file), allocate, sync.
//
// If SHIM has a folder `shadow`, it represents the disk after a power loss: each sync of a file copies
// the file to it, each sync of a folder writes the list of its names to it. `/` is written as `%`.

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t clock_ms;
    char rules[4088];
};

enum { NONE = -1, SHORT = 0, SYNC_US = 5000 };

static struct control *control;
static char data[PATH_MAX], shadow[PATH_MAX];
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("SHIM"), *below = getenv("SHIM_DATA");
    if (!folder || !below) return;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/control", folder);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    void *mapped = fd < 0 ? MAP_FAILED
        : mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, fd, 0);
    // Without its faults a test would pass without proving anything.
    if (mapped == MAP_FAILED) abort();
    close(fd);
    snprintf(data, sizeof data, "%s", below);
    snprintf(path, sizeof path, "%s/shadow", folder);
    struct stat is;
    if (stat(path, &is) == 0) snprintf(shadow, sizeof shadow, "%s", path);
    control = mapped;
}

// The clock.

int clock_gettime(clockid_t clock, struct timespec *at) {
    if (!real_clock_gettime) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock_gettime(clock, at);
    if (result == 0 && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ms = __atomic_load_n(&control->clock_ms, __ATOMIC_RELAXED);
        int64_t ns = at->tv_sec * 1000000000LL + at->tv_nsec + ms * 1000000LL;
        at->tv_sec = ns / 1000000000LL;
        at->tv_nsec = ns % 1000000000LL;
    }
    return result;
}

int gettimeofday(struct timeval *at, void *zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

// The rules.

// The part of `path` below the data folder, or NULL.
static const char *below(const char *path) {
    size_t length = strlen(data);
    if (!control || strncmp(path, data, length) != 0) return NULL;
    if (path[length] == 0) return "";
    return path[length] == '/' ? path + length + 1 : NULL;
}

static int fault(const char *operation, const char *path) {
    const char *relative = below(path);
    if (!relative) return NONE;
    for (const char *line = control->rules; *line; line++) {
        char named[16], part[64];
        int error, read = 0;
        if (sscanf(line, "%15s %63s %d%n", named, part, &error, &read) == 3 && line[read] == '\n'
            && strcmp(named, operation) == 0 && (*part == '*' || strstr(relative, part)))
            return error;
        line = strchr(line, '\n');
        if (!line) break;
    }
    return NONE;
}

static int path_of(int fd, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static int has_rules(void) {
    return control && control->rules[0];
}

static int fault_of(const char *operation, int fd) {
    char path[PATH_MAX];
    return has_rules() && path_of(fd, path) ? fault(operation, path) : NONE;
}

static int fails(int error) {
    if (error > 0) errno = error;
    return error > 0;
}

// Files.

static int open_by(int folder, const char *path, int flags, mode_t mode) {
    int writes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
    if (writes && has_rules() && fails(fault("open", path))) return -1;
    return syscall(SYS_openat, folder, path, flags, mode);
}

#define OPEN(name, before, folder)                       \
    int name(before const char *path, int flags, ...) { \
        va_list more;                                    \
        va_start(more, flags);                           \
        mode_t mode = va_arg(more, mode_t);              \
        va_end(more);                                    \
        return open_by(folder, path, flags, mode);       \
    }
#define COMMA ,
OPEN(open, , AT_FDCWD)
OPEN(open64, , AT_FDCWD)
OPEN(openat, int folder COMMA, folder)
OPEN(openat64, int folder COMMA, folder)

int mkdir(const char *path, mode_t mode) {
    if (has_rules() && fails(fault("open", path))) return -1;
    return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int unlink(const char *path) {
    if (has_rules() && fails(fault("open", path))) return -1;
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

// Whether a write fails. A short write reduces `length`.
static int write_fails(int fd, off_t at, size_t *length) {
    if (!has_rules()) return 0;
    struct stat is;
    int error = fault_of("write", fd);
    if (error == NONE && fstat(fd, &is) == 0 && is.st_size < at + (off_t)*length)
        error = fault_of("grow", fd);
    if (error == SHORT && *length > 1) *length /= 2;
    return fails(error);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    if (has_rules() && write_fails(fd, lseek(fd, 0, SEEK_CUR), &length)) return -1;
    return syscall(SYS_write, fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) {
    if (write_fails(fd, at, &length)) return -1;
    return syscall(SYS_pwrite64, fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return pwrite64(fd, bytes, length, at);
}

int ftruncate64(int fd, off_t length) {
    struct stat is;
    if (has_rules() && fails(fault_of("write", fd))) return -1;
    if (has_rules() && fstat(fd, &is) == 0 && is.st_size < length && fails(fault_of("grow", fd)))
        return -1;
    return syscall(SYS_ftruncate, fd, length);
}

int ftruncate(int fd, off_t length) {
    return ftruncate64(fd, length);
}

int fallocate64(int fd, int mode, off_t at, off_t length) {
    if (fails(fault_of("allocate", fd))) return -1;
    return syscall(SYS_fallocate, fd, mode, at, length);
}

int fallocate(int fd, int mode, off_t at, off_t length) {
    return fallocate64(fd, mode, at, length);
}

// The shadow disk.

static int make(const char *relative, const char *end, char *temporary, char *name) {
    size_t used = snprintf(name, PATH_MAX, "%s/", shadow);
    snprintf(name + used, PATH_MAX - used, "%s%s", relative, end);
    for (char *letter = name + used; *letter; letter++)
        if (*letter == '/') *letter = '%';
    snprintf(temporary, PATH_MAX, "%s/%%", shadow);
    return syscall(SYS_openat, AT_FDCWD, temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
}

static void copy(int from, int to) {
    static char buffer[1 << 18];
    ssize_t read;
    for (off_t at = 0; (read = pread(from, buffer, sizeof buffer, at)) > 0; at += read)
        if (syscall(SYS_write, to, buffer, read) != read) abort();
    if (read < 0) abort();
}

static void list(const char *path, int to) {
    DIR *folder = opendir(path);
    struct dirent *entry;
    while (folder && (entry = readdir(folder)))
        if (entry->d_name[0] != '.') dprintf(to, "%s\n", entry->d_name);
    if (folder) closedir(folder);
}

static int sync_by(long call, int fd) {
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
    char path[PATH_MAX], temporary[PATH_MAX], name[PATH_MAX];
    if (!control || !path_of(fd, path)) return syscall(call, fd);
    if (has_rules() && fails(fault("sync", path))) return -1;
    const char *relative = below(path);
    if (!*shadow || !relative) return syscall(call, fd);
    struct stat is;
    if (fstat(fd, &is) != 0) return -1;
    pthread_mutex_lock(&one);
    int to = make(relative, S_ISDIR(is.st_mode) ? "%names" : "", temporary, name);
    if (to < 0) abort();
    if (S_ISDIR(is.st_mode)) list(path, to);
    else copy(fd, to);
    close(to);
    // Take as long as a disk does, so that a confirmation before the sync would lose data.
    usleep(SYNC_US);
    if (rename(temporary, name) != 0) abort();
    pthread_mutex_unlock(&one);
    return 0;
}

int fsync(int fd) {
    return sync_by(SYS_fsync, fd);
}

int fdatasync(int fd) {
    return sync_by(SYS_fdatasync, fd);
}
