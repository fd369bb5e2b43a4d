/* What the benchmark's C programs share: commands on standard input, one JSON object per line on standard output. */
#ifndef STAGECUE_BENCH_CONTROL_H
#define STAGECUE_BENCH_CONTROL_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 8192

/* Says what is wrong, with errno's text if there is one, and ends the program. */
static inline void die(const char *what, ...) {
    int error = errno;
    va_list arguments;
    va_start(arguments, what);
    vfprintf(stderr, what, arguments);
    va_end(arguments);
    fprintf(stderr, error ? ": %s\n" : "\n", strerror(error));
    exit(1);
}

/* CLOCK_MONOTONIC, the same for all processes of a machine. */
static inline int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* What went wrong first, for the answer that tells how many things did. */
static char first_error[256] __attribute__((unused));

static inline void note_error(const char *what, const char *bytes, size_t size) {
    if (first_error[0]) return;
    int used = snprintf(first_error, sizeof first_error, "%s: ", what);
    if (size > sizeof first_error - (size_t)used - 1) size = sizeof first_error - (size_t)used - 1;
    memcpy(first_error + used, bytes, size);
    first_error[(size_t)used + size] = 0;
}

static inline void note_errno(const char *what, int error) {
    const char *text = error ? strerror(error) : "by the server";
    note_error(what, text, strlen(text));
}

static inline void set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) die("fcntl");
}

/* As many files as the process may have. */
static inline void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) die("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) die("setrlimit");
}

/* Lines that came on standard input, one per call of next_line. */
struct lines {
    char bytes[LINE_MAX_BYTES];
    size_t used;
};

/* Reads what is there; returns 0 at the end of the input: whoever started us is gone. */
static inline int read_lines(struct lines *lines) {
    ssize_t got = read(0, lines->bytes + lines->used, sizeof lines->bytes - lines->used);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    lines->used += (size_t)got;
    return got > 0;
}

/* Moves the next whole line into `line`, without its end; returns 0 when there is none. */
static inline int next_line(struct lines *lines, char line[LINE_MAX_BYTES]) {
    char *end = memchr(lines->bytes, '\n', lines->used);
    if (!end) {
        if (lines->used == sizeof lines->bytes) die("a command of more than %d bytes", LINE_MAX_BYTES);
        return 0;
    }
    size_t size = (size_t)(end - lines->bytes);
    memcpy(line, lines->bytes, size);
    line[size] = 0;
    lines->used -= size + 1;
    memmove(lines->bytes, end + 1, lines->used);
    return 1;
}

/* A JSON string of at most `limit` of the bytes; whatever is not plain ASCII becomes a question mark. */
static inline void print_json_text(const char *bytes, size_t size, size_t limit) {
    putchar('"');
    for (size_t at = 0; at < size && at < limit; at++) {
        unsigned char byte = (unsigned char)bytes[at];
        if (byte == '"' || byte == '\\') printf("\\%c", byte);
        else putchar(byte == '\r' || byte == '\n' || byte == '\t' ? ' ' : byte < 32 || byte > 126 ? '?' : byte);
    }
    putchar('"');
}

#endif
