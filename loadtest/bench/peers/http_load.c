/* HTTP/1.1 requests over keep-alive connections, from one thread: as fast as they are answered, or when they are due.
 *
 *     http_load PORT spin|sleep
 *
 * `spin` never sleeps while it works: to wake it would be a cost of the server's that no server behind a network has.
 * `sleep` leaves its core to others between two things to do. Commands on standard input, each answered with one line
 * of JSON, in order; times are microseconds:
 *
 *     load REQUESTS     a file of requests, each after its size (u32, little-endian) and its tag (u8, below 8)
 *         {"requests":N}
 *     closed CONNECTIONS AT_LEAST LIMIT_MS TIMEOUT_MS KEEP SAMPLES RECORDS
 *                       closed loop: each connection sends the next request of the file once its last is answered;
 *                       ends with the file, or after LIMIT_MS if AT_LEAST were taken
 *     open POOLS SCHEDULE TIMEOUT_MS KEEP SAMPLES RECORDS
 *                       open loop: SCHEDULE is a file of pairs (u32 when, from the start; u32 which request), in order
 *                       of time; POOLS: connections of tag 0, 1 and on, by commas. An arrival that finds no connection
 *                       of its tag free waits for one. Latency counts from when it was due, whatever it waited for.
 *     mark TEXT         2xx answers that contain TEXT are counted apart from now on, as "marked" and with the others
 *         {"marking":true}
 *     close             {"closed":N}
 *
 * Answers to the first KEEP requests of the file are written to SAMPLES whole: (u32 request, u32 size, bytes), `-`: none.
 * RECORDS gets (u32 due, u32 latency, u16 status, u8 tag, u8 flags) of each request, `-`: none; flags: 1 it waited for a
 * connection, 2 its answer was marked. Status 0: no answer, or
 * none within TIMEOUT_MS. `closed` and `open` answer
 *
 *     {"wall_us":N,"idle_us":N,"sent":N,"answered":N,"failed":N,"waited":N,"waiting_max":N,"late":H,"bytes":N,
 *      "body_bytes":N,"connects":N,"tags":[{"tag":N,"statuses":{"200":N},"marked":N,"good":H,"other":H}],"error":"..."}
 *
 * idle: of the wall time, what passed in looking for work in vain, or asleep. late: how long after its time a request
 * was sent for which a connection was free, this program's own lateness. H, a histogram: [[slot,count],...] with slot v
 * for v < 128 and above that 128 slots to each power of two. It ends with its input.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "control.h"

#define EVENTS 128
#define TAGS 8
#define ANSWER_MAX (1 << 20)
#define INPUT UINT32_MAX
#define NONE UINT32_MAX
#define SUB 128
#define SLOTS (27 * SUB)
#define LOOK_EVERY_NS 20000000

struct histogram {
    uint32_t slots[SLOTS];
};

struct record {
    uint32_t due_us, latency_us;
    uint16_t status;
    uint8_t tag, flags;
};

/* One request on its way: in closed loop the number in the file, in open loop that of the arrival. */
struct connection {
    int fd, writable_watched;
    uint8_t pool, busy, connecting, waited;
    uint32_t request;
    size_t sent;
    int64_t due_ns, sent_ns;
    char *rest; /* of an unfinished answer */
    size_t kept, needed;
    uint32_t next_free;
};

struct arrival {
    uint32_t at_us, request;
};

struct pool {
    uint32_t free, first_waiting, last_waiting;
};

static int epoll, port, spinning;
static struct connection *connections;
static uint32_t connection_count;
static struct pool pools[TAGS];

static const unsigned char *requests;
static size_t requests_size;
static uint32_t request_count, request_room;
static const unsigned char **request_at;

/* A run under way. */
static int running, open_loop;
static const struct arrival *arrivals;
static size_t arrivals_size;
static uint32_t arrival_count, taken, at_least, done, keep, *next_waiting;
static int64_t began_ns, limit_ns, timeout_ns, idle_ns, looked_ns;
static uint64_t bytes_in, body_bytes;
static uint32_t sent, answered, failed, waited, waiting, waiting_max, connects;
static uint32_t failures_in_a_row;
static struct histogram late, good[TAGS], other[TAGS];
static uint32_t statuses[TAGS][600], marked[TAGS];
static char mark[256];
static FILE *samples;
static const char *records_path;
static char records_name[4096];
static struct record *records;
static char buffer[262144];

static void count(struct histogram *histogram, int64_t ns) {
    uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;
    if (us < SUB) {
        histogram->slots[us]++;
        return;
    }
    int shift = 63 - __builtin_clzll(us) - 7;
    uint64_t slot = (uint64_t)(shift + 1) * SUB + ((us >> shift) - SUB);
    histogram->slots[slot < SLOTS ? slot : SLOTS - 1]++;
}

static void print_histogram(const struct histogram *histogram) {
    const char *between = "";
    putchar('[');
    for (int slot = 0; slot < SLOTS; slot++) {
        if (!histogram->slots[slot]) continue;
        printf("%s[%d,%u]", between, slot, histogram->slots[slot]);
        between = ",";
    }
    putchar(']');
}

static const unsigned char *request_of(uint32_t number, size_t *size, int *tag) {
    uint32_t index = open_loop ? arrivals[number].request : number, length;
    const unsigned char *at = request_at[index];
    memcpy(&length, at, sizeof length);
    *size = length;
    *tag = at[4];
    return at + 5;
}

static int tag_of(uint32_t number) {
    return request_at[open_loop ? arrivals[number].request : number][4];
}

/* ---- how a request ends ---- */

static void finish(uint32_t number, int64_t due_ns, int status, int has_waited, int is_marked) {
    int tag = tag_of(number);
    int64_t took_ns = now_ns() - due_ns;
    statuses[tag][status]++;
    marked[tag] += (uint32_t)is_marked;
    if (status) answered++;
    else failed++;
    failures_in_a_row = status ? 0 : failures_in_a_row + 1;
    count(status >= 200 && status < 300 && !is_marked ? &good[tag] : &other[tag], took_ns);
    if (records)
        records[number] = (struct record){(uint32_t)((due_ns - began_ns) / 1000), (uint32_t)(took_ns / 1000),
                                          (uint16_t)status, (uint8_t)tag, (uint8_t)(has_waited | is_marked << 1)};
    done++;
}

static void watch(struct connection *connection, int operation, uint32_t what) {
    struct epoll_event event = {.events = what, .data.u32 = (uint32_t)(connection - connections)};
    if (epoll_ctl(epoll, operation, connection->fd, &event) < 0) die("epoll_ctl");
}

static void hang_up(struct connection *connection) {
    if (connection->fd >= 0) close(connection->fd);
    free(connection->rest);
    connection->rest = NULL;
    connection->kept = connection->needed = 0;
    connection->fd = -1;
    connection->connecting = connection->writable_watched = 0;
}

static void give(struct connection *connection, uint32_t number, int64_t due_ns, int has_waited);

/* It takes what waits for one of its kind, the next of the file, or waits itself. */
static void go_on(struct connection *connection) {
    if (!open_loop) {
        int over = taken == request_count || (taken >= at_least && now_ns() - began_ns >= limit_ns);
        if (over || failures_in_a_row > 100) {
            if (!over) limit_ns = at_least = 0; /* nobody answers: no use asking on */
            return;
        }
        give(connection, taken++, now_ns(), 0);
        return;
    }
    struct pool *pool = &pools[connection->pool];
    uint32_t number = pool->first_waiting;
    if (number == NONE) {
        connection->next_free = pool->free;
        pool->free = (uint32_t)(connection - connections);
        return;
    }
    pool->first_waiting = next_waiting[number];
    waiting--;
    give(connection, number, began_ns + (int64_t)arrivals[number].at_us * 1000, 1);
}

static void lose(struct connection *connection) {
    hang_up(connection);
    if (!connection->busy) return;
    connection->busy = 0;
    finish(connection->request, connection->due_ns, 0, connection->waited, 0);
    go_on(connection);
}

/* ---- sending ---- */

static void send_on(struct connection *connection) {
    size_t size;
    int tag;
    const unsigned char *bytes = request_of(connection->request, &size, &tag);
    while (connection->sent < size) {
        ssize_t went = send(connection->fd, bytes + connection->sent, size - connection->sent, MSG_NOSIGNAL);
        if (went < 0 && errno == EAGAIN) break;
        if (went < 0) {
            note_errno("send", errno);
            lose(connection);
            return;
        }
        connection->sent += (size_t)went;
    }
    int unsent = connection->sent < size;
    if (unsent != connection->writable_watched) {
        watch(connection, EPOLL_CTL_MOD, unsent ? EPOLLIN | EPOLLOUT : EPOLLIN);
        connection->writable_watched = unsent;
    }
}

static void open_connection(struct connection *connection) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connection->fd = fd;
    connection->connecting = connection->writable_watched = 1;
    connects++;
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        /* Told by epoll like any other refusal, so that nobody calls himself for ever. */
        note_errno("connect", errno);
    }
    watch(connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void give(struct connection *connection, uint32_t number, int64_t due_ns, int has_waited) {
    connection->busy = 1;
    connection->request = number;
    connection->due_ns = due_ns;
    connection->waited = (uint8_t)has_waited;
    connection->sent = 0;
    connection->sent_ns = now_ns();
    sent++;
    if (open_loop && !has_waited) count(&late, connection->sent_ns - due_ns);
    if (connection->fd < 0) open_connection(connection);
    else send_on(connection);
}

/* ---- answers ---- */

struct answer {
    int status, closes;
    size_t head, body;
};

/* Reads the head of an answer; returns 0 while it is unfinished, -1 for one this program does not read. */
static int read_head(const char *bytes, size_t size, struct answer *answer) {
    const char *end = memmem(bytes, size, "\r\n\r\n", 4);
    if (!end) return size > 65536 ? -1 : 0;
    if (size < 12 || memcmp(bytes, "HTTP/1.", 7)) return -1;
    *answer = (struct answer){.status = atoi(bytes + 9), .head = (size_t)(end + 4 - bytes)};
    if (answer->status < 200 || answer->status > 599) return -1;
    int sized = answer->status == 204 || answer->status == 304;
    for (const char *line = memchr(bytes, '\n', size); line && ++line < end; line = memchr(line, '\n', (size_t)(end - line))) {
        if (!strncasecmp(line, "content-length:", 15)) {
            answer->body = strtoul(line + 15, NULL, 10);
            sized = 1;
        } else if (!strncasecmp(line, "connection:", 11)) {
            const char *value = line + 11;
            while (*value == ' ') value++;
            answer->closes = !strncasecmp(value, "close", 5);
        }
    }
    if (answer->status == 204 || answer->status == 304) answer->body = 0;
    return sized && answer->body <= ANSWER_MAX ? 1 : -1;
}

static void keep_sample(uint32_t request, const char *bytes, size_t size) {
    uint32_t head[2] = {request, (uint32_t)size};
    if (fwrite(head, sizeof head, 1, samples) != 1 || fwrite(bytes, 1, size, samples) != size) die("samples");
}

/* A whole answer lies at `bytes`. */
static void answer_came(struct connection *connection, const char *bytes, size_t size, const struct answer *answer) {
    if (!connection->busy) {
        note_error("an answer nobody asked for", bytes, size);
        hang_up(connection);
        return;
    }
    uint32_t request = open_loop ? arrivals[connection->request].request : connection->request;
    bytes_in += size;
    body_bytes += answer->body;
    if (samples && request < keep) keep_sample(request, bytes, size);
    if (answer->status >= 300 && answer->status != 304) note_error("answered", bytes, size);
    connection->busy = 0;
    connection->kept = connection->needed = 0;
    int is_marked = mark[0] && answer->status < 300 &&
                    memmem(bytes + answer->head, answer->body, mark, strlen(mark)) != NULL;
    finish(connection->request, connection->due_ns, answer->status, connection->waited, is_marked);
    if (answer->closes) hang_up(connection);
    go_on(connection);
}

static void keep_rest(struct connection *connection, const char *bytes, size_t size, size_t needed) {
    char *rest = malloc(size);
    if (!rest) die("out of memory");
    memcpy(rest, bytes, size);
    free(connection->rest);
    connection->rest = rest;
    connection->kept = size;
    connection->needed = needed;
}

static void unreadable(struct connection *connection, const char *bytes, size_t size) {
    note_error("no answer this program reads", bytes, size);
    lose(connection);
}

static void readable(struct connection *connection) {
    char *bytes = buffer;
    size_t kept = connection->kept, room = sizeof buffer;
    if (kept && connection->needed > sizeof buffer / 2) {
        bytes = malloc(room = connection->needed + 1);
        if (!bytes) die("out of memory");
    }
    if (kept) memcpy(bytes, connection->rest, kept);
    ssize_t got = recv(connection->fd, bytes + kept, room - kept, 0);
    if (got <= 0) {
        int error = got ? errno : 0;
        if (bytes != buffer) free(bytes);
        if (got < 0 && (error == EAGAIN || error == EINTR)) return;
        if (connection->busy) note_errno("cut off", error);
        lose(connection); /* between two requests a server may close: the next one connects anew */
        return;
    }
    size_t size = kept + (size_t)got;
    struct answer answer = {0};
    int found = read_head(bytes, size, &answer);
    size_t whole = answer.head + answer.body;
    if (found < 0 || (found && size > whole)) unreadable(connection, bytes, size);
    else if (!found || size < whole) keep_rest(connection, bytes, size, found ? whole : 0);
    else answer_came(connection, bytes, size, &answer);
    if (bytes != buffer) free(bytes);
}

static void writable(struct connection *connection) {
    if (connection->connecting) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            note_errno("connect", error);
            lose(connection);
            return;
        }
        connection->connecting = 0;
    }
    if (connection->busy) send_on(connection);
}

/* ---- what is due ---- */

static void take_due(int64_t now) {
    while (taken < arrival_count && began_ns + (int64_t)arrivals[taken].at_us * 1000 <= now) {
        uint32_t number = taken++;
        struct pool *pool = &pools[tag_of(number)];
        if (pool->free != NONE) {
            struct connection *connection = connections + pool->free;
            pool->free = connection->next_free;
            give(connection, number, began_ns + (int64_t)arrivals[number].at_us * 1000, 0);
            continue;
        }
        next_waiting[number] = NONE;
        if (pool->first_waiting == NONE) pool->first_waiting = number;
        else next_waiting[pool->last_waiting] = number;
        pool->last_waiting = number;
        waited++;
        if (++waiting > waiting_max) waiting_max = waiting;
    }
}

static void give_up_late(int64_t now) {
    looked_ns = now;
    for (uint32_t at = 0; at < connection_count; at++) {
        struct connection *connection = connections + at;
        if (!connection->busy || now - connection->due_ns < timeout_ns) continue;
        note_error("no answer", "in time", 7);
        lose(connection);
    }
    for (int tag = 0; open_loop && tag < TAGS; tag++) {
        struct pool *pool = &pools[tag];
        while (pool->first_waiting != NONE) {
            uint32_t number = pool->first_waiting;
            int64_t due_ns = began_ns + (int64_t)arrivals[number].at_us * 1000;
            if (now - due_ns < timeout_ns) break;
            pool->first_waiting = next_waiting[number];
            waiting--;
            finish(number, due_ns, 0, 1, 0);
        }
    }
}

/* ---- commands ---- */

static const void *map_file(const char *path, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat found;
    if (fd < 0 || fstat(fd, &found) < 0) die("%s", path);
    *size = (size_t)found.st_size;
    void *mapped = *size ? mmap(NULL, *size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0) : NULL;
    if (mapped == MAP_FAILED) die("%s", path);
    close(fd);
    return mapped;
}

static void load_requests(const char *path) {
    if (requests) munmap((void *)requests, requests_size);
    requests = map_file(path, &requests_size);
    request_count = 0;
    for (size_t at = 0; at < requests_size;) {
        uint32_t length;
        if (at + 5 > requests_size) die("%s is cut off", path);
        memcpy(&length, requests + at, sizeof length);
        if (at + 5 + length > requests_size) die("%s is cut off", path);
        if (requests[at + 4] >= TAGS) die("%s: request %u has tag %u", path, request_count, requests[at + 4]);
        if (request_count == request_room) {
            request_room = request_room ? 2 * request_room : 65536;
            request_at = realloc(request_at, request_room * sizeof *request_at);
            if (!request_at) die("out of memory");
        }
        request_at[request_count++] = requests + at;
        at += 5 + length;
    }
    printf("{\"requests\":%u}\n", request_count);
    fflush(stdout);
}

static uint32_t close_all(void) {
    uint32_t closed = 0;
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    for (uint32_t at = 0; at < connection_count; at++) {
        struct connection *connection = connections + at;
        if (connection->fd < 0) continue;
        setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        hang_up(connection);
        closed++;
    }
    free(connections);
    connections = NULL;
    connection_count = 0;
    return closed;
}

static void begin(const char *kept, const char *samples_path, const char *records_to) {
    if (!records_to || !request_count) die("usage: see http_load.c");
    uint32_t most = open_loop ? arrival_count : request_count;
    running = 1;
    taken = done = sent = answered = failed = waited = waiting = waiting_max = connects = failures_in_a_row = 0;
    bytes_in = body_bytes = 0;
    memset(&late, 0, sizeof late);
    memset(good, 0, sizeof good);
    memset(other, 0, sizeof other);
    memset(statuses, 0, sizeof statuses);
    memset(marked, 0, sizeof marked);
    first_error[0] = 0;
    keep = (uint32_t)strtoul(kept, NULL, 10);
    samples = NULL;
    if (strcmp(samples_path, "-") && !(samples = fopen(samples_path, "wb"))) die("%s", samples_path);
    records_path = NULL;
    records = NULL;
    if (strcmp(records_to, "-")) {
        snprintf(records_name, sizeof records_name, "%s", records_to);
        records_path = records_name;
        if (!(records = calloc(most ? most : 1, sizeof *records))) die("out of memory");
    }
    idle_ns = 0;
    began_ns = looked_ns = now_ns();
}

static void make_connections(const uint32_t *wanted) {
    close_all();
    for (int tag = 0; tag < TAGS; tag++) connection_count += wanted[tag];
    if (!connection_count || !(connections = calloc(connection_count, sizeof *connections))) die("no connections");
    uint32_t at = 0;
    for (int tag = 0; tag < TAGS; tag++) {
        pools[tag] = (struct pool){NONE, NONE, NONE};
        for (uint32_t number = 0; number < wanted[tag]; number++, at++)
            connections[at] = (struct connection){.fd = -1, .pool = (uint8_t)tag};
    }
}

static void begin_closed(char *arguments) {
    char *many = strtok(arguments, " "), *least = strtok(NULL, " "), *limit = strtok(NULL, " ");
    char *timeout = strtok(NULL, " "), *kept = strtok(NULL, " "), *path = strtok(NULL, " "), *to = strtok(NULL, " ");
    if (!to) die("closed CONNECTIONS AT_LEAST LIMIT_MS TIMEOUT_MS KEEP SAMPLES RECORDS");
    uint32_t wanted[TAGS] = {(uint32_t)strtoul(many, NULL, 10)};
    open_loop = 0;
    make_connections(wanted);
    at_least = (uint32_t)strtoul(least, NULL, 10);
    limit_ns = atoll(limit) * 1000000;
    timeout_ns = atoll(timeout) * 1000000;
    begin(kept, path, to);
    for (uint32_t at = 0; at < connection_count; at++) go_on(connections + at);
}

static void begin_open(char *arguments) {
    char *many = strtok(arguments, " "), *schedule = strtok(NULL, " "), *timeout = strtok(NULL, " ");
    char *kept = strtok(NULL, " "), *path = strtok(NULL, " "), *to = strtok(NULL, " ");
    if (!to) die("open POOLS SCHEDULE TIMEOUT_MS KEEP SAMPLES RECORDS");
    uint32_t wanted[TAGS] = {0};
    for (int tag = 0; tag < TAGS && many; tag++) {
        wanted[tag] = (uint32_t)strtoul(many, &many, 10);
        many = *many == ',' ? many + 1 : NULL;
    }
    open_loop = 1;
    make_connections(wanted);
    arrivals = map_file(schedule, &arrivals_size);
    arrival_count = (uint32_t)(arrivals_size / sizeof *arrivals);
    next_waiting = malloc((arrival_count + 1) * sizeof *next_waiting);
    if (!next_waiting) die("out of memory");
    for (uint32_t at = 0; at < arrival_count; at++) {
        if (arrivals[at].request >= request_count) die("arrival %u asks for no request", at);
        if (at && arrivals[at].at_us < arrivals[at - 1].at_us) die("arrival %u is out of order", at);
        if (!wanted[request_at[arrivals[at].request][4]]) die("arrival %u has no connections", at);
    }
    timeout_ns = atoll(timeout) * 1000000;
    begin(kept, path, to);
    for (uint32_t at = connection_count; at-- > 0;) go_on(connections + at);
    began_ns = now_ns();
}

static void print_tag(int tag, const char *before) {
    const char *between = "";
    printf("%s{\"tag\":%d,\"statuses\":{", before, tag);
    for (int status = 0; status < 600; status++) {
        if (!statuses[tag][status]) continue;
        printf("%s\"%d\":%u", between, status, statuses[tag][status]);
        between = ",";
    }
    printf("},\"marked\":%u,\"good\":", marked[tag]);
    print_histogram(&good[tag]);
    printf(",\"other\":");
    print_histogram(&other[tag]);
    putchar('}');
}

static void say_run(void) {
    printf("{\"wall_us\":%lld,\"idle_us\":%lld,\"sent\":%u,\"answered\":%u,\"failed\":%u,\"waited\":%u,"
           "\"waiting_max\":%u,\"late\":",
           (long long)((now_ns() - began_ns) / 1000), (long long)(idle_ns / 1000), sent, answered, failed, waited,
           waiting_max);
    print_histogram(&late);
    printf(",\"bytes\":%llu,\"body_bytes\":%llu,\"connects\":%u,\"tags\":[", (unsigned long long)bytes_in,
           (unsigned long long)body_bytes, connects);
    const char *between = "";
    for (int tag = 0; tag < TAGS; tag++) {
        uint32_t found = 0;
        for (int status = 0; status < 600; status++) found += statuses[tag][status];
        if (!found) continue;
        print_tag(tag, between);
        between = ",";
    }
    printf("],\"error\":");
    print_json_text(first_error, strlen(first_error), 200);
    puts("}");
    fflush(stdout);
}

static void end_when_over(void) {
    if (open_loop ? done < arrival_count : done < taken) return;
    running = 0;
    if (samples && fclose(samples)) die("samples");
    if (records) {
        FILE *file = fopen(records_path, "wb");
        if (!file || fwrite(records, sizeof *records, done, file) != done || fclose(file)) die("%s", records_path);
        free(records);
        records = NULL;
    }
    say_run();
    if (!open_loop) return;
    if (arrivals) munmap((void *)arrivals, arrivals_size);
    free(next_waiting);
    arrivals = NULL;
}

static void obey(char *line) {
    if (!strncmp(line, "load ", 5)) load_requests(line + 5);
    else if (!strncmp(line, "closed ", 7)) begin_closed(line + 7);
    else if (!strncmp(line, "open ", 5)) begin_open(line + 5);
    else if (!strncmp(line, "mark ", 5)) {
        if (strlen(line + 5) >= sizeof mark) die("mark TEXT");
        strcpy(mark, line + 5);
        puts("{\"marking\":true}");
        fflush(stdout);
    } else if (!strcmp(line, "close")) {
        printf("{\"closed\":%u}\n", close_all());
        fflush(stdout);
    } else die("unknown command %s", line);
}

/* How long there is nothing to do but what sockets say; negative: for ever. */
static int64_t free_ns(int64_t now) {
    if (!running) return -1;
    if (spinning) return 0;
    int64_t until = looked_ns + LOOK_EVERY_NS;
    if (open_loop && taken < arrival_count) {
        int64_t due = began_ns + (int64_t)arrivals[taken].at_us * 1000;
        if (due < until) until = due;
    }
    return until > now ? until - now : 0;
}

static void look_at_sockets(struct lines *lines, char *line) {
    struct epoll_event events[EVENTS];
    int64_t from = now_ns(), wait = free_ns(from);
    struct timespec bound = {wait / 1000000000, wait % 1000000000};
    int found = epoll_pwait2(epoll, events, EVENTS, wait < 0 ? NULL : &bound, NULL);
    if (found < 0 && errno != EINTR) die("epoll_pwait2");
    if (running && (found == 0 || !spinning)) idle_ns += now_ns() - from;
    for (int at = 0; at < found; at++) {
        if (events[at].data.u32 == INPUT) {
            if (!read_lines(lines)) exit(0);
            while (!running && next_line(lines, line)) obey(line);
            continue;
        }
        if (events[at].data.u32 >= connection_count) continue;
        struct connection *connection = connections + events[at].data.u32;
        if (connection->fd >= 0 && (connection->connecting || events[at].events & EPOLLOUT)) writable(connection);
        if (connection->fd >= 0 && !connection->connecting && events[at].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            readable(connection);
        /* Arrivals do not wait until a crowd of answers is read. */
        if (running && open_loop) take_due(now_ns());
    }
}

int main(int argc, char **argv) {
    static struct lines lines;
    static char line[LINE_MAX_BYTES];
    if (argc != 3 || (strcmp(argv[2], "spin") && strcmp(argv[2], "sleep"))) die("usage: see http_load.c");
    port = atoi(argv[1]);
    spinning = !strcmp(argv[2], "spin");
    prctl(PR_SET_TIMERSLACK, 1);
    raise_file_limit();
    set_nonblocking(0);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event input = {.events = EPOLLIN, .data.u32 = INPUT};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input) < 0) die("epoll");
    for (;;) {
        look_at_sockets(&lines, line);
        if (running) {
            int64_t now = now_ns();
            if (open_loop) take_due(now);
            if (now - looked_ns >= LOOK_EVERY_NS) give_up_late(now);
            end_when_over();
        }
        while (!running && next_line(&lines, line)) obey(line);
    }
}
