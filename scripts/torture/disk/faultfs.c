/* A disk that fails, below SQLite and below Python: loaded with LD_PRELOAD, it stands before the C library's calls.
 *
 * Only paths below one directory are concerned (`faultfs_watch`). Calls that change something there are counted; from
 * the n-th on, or that one alone, they fail as `faultfs_arm` says. Reads are counted apart. With `faultfs_log` every
 * change that went through is written to a descriptor, so that a power cut can be worked out afterwards: what a disk
 * may hold that had promised no more than what was synced.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { GROW = 1, CHANGE = 2, SYNC = 4, REMOVE = 8, READ = 16 }; /* what a call does; faults name a set of these */
enum { MAX_FD = 1024, MAX_CALLS = 65536 };

static char root[4096];
static size_t root_length;
static unsigned char watched[MAX_FD];
static int log_fd = -1;
static int mask, error_number, persistent, torn;
static long at, count, reads, hits;
static unsigned char kinds[MAX_CALLS];

/* -- what the harness calls ------------------------------------------------------------------------------------- */

void faultfs_watch(const char *directory)
{
    root_length = strlen(directory);
    memcpy(root, directory, root_length + 1);
    memset(watched, 0, sizeof watched);
}

void faultfs_arm(int what, int number, int from_then_on, int tear, long call)
{
    mask = what, error_number = number, persistent = from_then_on, torn = tear, at = call, count = reads = hits = 0;
}

void faultfs_clear(void) { at = 0; }
long faultfs_count(void) { return count; }
long faultfs_reads(void) { return reads; }
long faultfs_hits(void) { return hits; }
int faultfs_kind(long call) { return call > 0 && call < MAX_CALLS ? kinds[call] : 0; }
void faultfs_log(int descriptor) { log_fd = descriptor; }

/* A record: operation, inode, offset or size, length, bytes. */
static void note(char operation, uint64_t inode, uint64_t offset, const void *data, uint32_t length)
{
    if (log_fd < 0)
        return;
    char head[21];
    head[0] = operation;
    memcpy(head + 1, &inode, 8), memcpy(head + 9, &offset, 8), memcpy(head + 17, &length, 4);
    if (syscall(SYS_write, log_fd, head, sizeof head) != (long)sizeof head)
        abort();
    for (uint32_t done = 0; done < length;) {
        long wrote = syscall(SYS_write, log_fd, (const char *)data + done, length - done);
        if (wrote <= 0)
            abort();
        done += (uint32_t)wrote;
    }
}

void faultfs_mark(long number) { note('A', (uint64_t)number, 0, "", 0); }

/* -- which calls are meant ------------------------------------------------------------------------------------- */

static int below(const char *path)
{
    return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int ours(int fd) { return fd >= 0 && fd < MAX_FD && watched[fd]; }

static uint64_t inode_of(int fd)
{
    struct stat status;
    return fstat(fd, &status) ? 0 : (uint64_t)status.st_ino;
}

static void name(char operation, const char *path, const char *other)
{
    char both[8192];
    struct stat status;
    uint64_t inode = lstat(other && *other ? other : path, &status) ? 0 : (uint64_t)status.st_ino;
    int length = snprintf(both, sizeof both, "%s%c%s", path, 0, other ? other : "");
    note(operation, inode, 0, both, (uint32_t)length);
}

/* Whether this call fails; errno is set then. */
static int fails(int kind)
{
    long turn = kind == READ ? ++reads : ++count;
    if (kind != READ && turn < MAX_CALLS)
        kinds[turn] = (unsigned char)kind;
    if (!at || !(mask & kind) || (kind == READ) != (mask == READ))
        return 0;
    if (persistent ? turn < at : turn != at)
        return 0;
    hits++;
    errno = error_number;
    return 1;
}

/* -- opening ---------------------------------------------------------------------------------------------------- */

static int opened(int at_fd, const char *path, int flags, mode_t mode)
{
    int mine = path[0] == '/' && below(path);
    int makes = 0;
    if (mine && flags & (O_CREAT | O_TRUNC)) {
        makes = flags & O_CREAT && access(path, F_OK);
        if ((makes || flags & O_TRUNC) && fails(makes ? GROW : CHANGE))
            return -1;
    } else if (mine && (flags & O_ACCMODE) != O_RDONLY && at && error_number == EROFS && fails(CHANGE))
        return -1;
    int fd = (int)syscall(SYS_openat, at_fd, path, flags, mode);
    if (fd >= 0 && fd < MAX_FD) {
        watched[fd] = (unsigned char)mine;
        if (makes)
            name('c', path, "");
        else if (mine && flags & O_TRUNC)
            note('t', inode_of(fd), 0, "", 0);
    }
    return fd;
}

#define OPEN(function) \
    int function(const char *path, int flags, ...) \
    { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return opened(AT_FDCWD, path, flags, mode); \
    }
#define OPENAT(function) \
    int function(int at_fd, const char *path, int flags, ...) \
    { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return opened(at_fd, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int close(int fd)
{
    if (fd >= 0 && fd < MAX_FD)
        watched[fd] = 0;
    return (int)syscall(SYS_close, fd);
}

/* -- bytes ------------------------------------------------------------------------------------------------------ */

static ssize_t put(int fd, const void *data, size_t length, off_t offset)
{
    if (fails(GROW)) {
        if (!torn || length < 2)
            return -1;
        length /= 2; /* as a disk that fills up in the middle of it: the rest is told by the next call */
        if (persistent == 0)
            at = count + 1;
    }
    ssize_t wrote = (ssize_t)syscall(SYS_pwrite64, fd, data, length, offset);
    if (wrote > 0)
        note('w', inode_of(fd), (uint64_t)offset, data, (uint32_t)wrote);
    return wrote;
}

#define PWRITE(function, type) \
    ssize_t function(int fd, const void *data, size_t length, type offset) \
    { \
        return ours(fd) ? put(fd, data, length, offset) \
                        : (ssize_t)syscall(SYS_pwrite64, fd, data, length, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t length)
{
    if (!ours(fd))
        return (ssize_t)syscall(SYS_write, fd, data, length);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t wrote = put(fd, data, length, offset);
    if (wrote > 0)
        lseek(fd, offset + wrote, SEEK_SET);
    return wrote;
}

ssize_t read(int fd, void *data, size_t length)
{
    return ours(fd) && fails(READ) ? -1 : (ssize_t)syscall(SYS_read, fd, data, length);
}

#define PREAD(function, type) \
    ssize_t function(int fd, void *data, size_t length, type offset) \
    { \
        return ours(fd) && fails(READ) ? -1 : (ssize_t)syscall(SYS_pread64, fd, data, length, offset); \
    }
PREAD(pread, off_t)
PREAD(pread64, off64_t)

#define TRUNCATE(function, type) \
    int function(int fd, type length) \
    { \
        if (ours(fd) && fails(CHANGE)) \
            return -1; \
        int result = (int)syscall(SYS_ftruncate, fd, length); \
        if (!result && ours(fd)) \
            note('t', inode_of(fd), (uint64_t)length, "", 0); \
        return result; \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC_CALL(function, number) \
    int function(int fd) \
    { \
        if (ours(fd) && fails(SYNC)) \
            return -1; \
        int result = (int)syscall(number, fd); \
        if (!result && ours(fd)) \
            note('s', inode_of(fd), 0, "", 0); \
        return result; \
    }
SYNC_CALL(fsync, SYS_fsync)
SYNC_CALL(fdatasync, SYS_fdatasync)

/* -- names ------------------------------------------------------------------------------------------------------ */

int rename(const char *from, const char *to)
{
    int mine = below(from) || below(to);
    if (mine && fails(GROW))
        return -1;
    int result = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!result && mine)
        name('r', from, to);
    return result;
}

int link(const char *from, const char *to)
{
    int mine = below(to);
    if (mine && fails(GROW))
        return -1;
    int result = (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!result && mine)
        name('l', from, to);
    return result;
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    int mine = to[0] == '/' && below(to);
    if (mine && fails(GROW))
        return -1;
    int result = (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
    if (!result && mine)
        name('l', from, to);
    return result;
}

/* An absolute path for one that is relative to an open directory. */
static const char *absolute(int at_fd, const char *path, char *room, size_t size)
{
    char link_path[64];
    if (path[0] == '/' || at_fd < 0)
        return path;
    snprintf(link_path, sizeof link_path, "/proc/self/fd/%d", at_fd);
    ssize_t length = readlink(link_path, room, size - 1);
    if (length < 0)
        return path;
    snprintf(room + length, size - (size_t)length, "/%s", path);
    return room;
}

int unlinkat(int at_fd, const char *path, int flags)
{
    char room[8192];
    const char *whole = absolute(at_fd, path, room, sizeof room);
    int mine = below(whole);
    if (mine && access(whole, F_OK) == 0 && fails(REMOVE))
        return -1;
    int result = (int)syscall(SYS_unlinkat, at_fd, path, flags);
    if (!result && mine)
        name(flags & AT_REMOVEDIR ? 'd' : 'u', whole, "");
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    int mine = below(from) || below(to);
    if (mine && fails(GROW))
        return -1;
    int result = (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
    if (!result && mine)
        name(flags & RENAME_EXCHANGE ? 'x' : 'r', from, to);
    return result;
}

int mkdir(const char *path, mode_t mode)
{
    int mine = below(path);
    if (mine && access(path, F_OK) && fails(GROW))
        return -1;
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (!result && mine)
        name('m', path, "");
    return result;
}
