/* Many devices in one thread: connects them, counts what each receives and when, and probes the server meanwhile.
 *
 *     load PORT CONNECTIONS WINDOW SOURCES BLOCK PROBES messages|events [COUNT MARKER]...
 *
 * Device i connects from 127.BLOCK.y.z, one of SOURCES addresses in turn, at most WINDOW at once on their way.
 * It is ready once every MARKER came in COUNT messages: of a WebSocket, or server-sent events. The first PROBES devices
 * measure round trips when asked: one of them in turn sends a ping every millisecond.
 * Commands on standard input, each answered with one line of JSON, in order:
 *
 *     connect TIMEOUT_MS REQUESTS FRAME    REQUESTS: a file of requests, one per device, each after its size
 *                                          (u32, little-endian); FRAME: a file sent as it is after the answer, or -
 *         {"ready":N,"refused":N,"failed":N,"lost":N,"wall_us":N,"idle_us":N,"error":"..."}
 *                                          idle: of the wall time, what passed in looking for work in vain
 *     expect TIMEOUT_MS PROBING MARKER     answers {"armed":true}, and once every ready device received a text message
 *                                          with MARKER, or at the end of the time,
 *         {"received":N,"repeated":N,"bytes":N,"at_ns":N,"probes":N,"probe_us_max":N,"probe_us_p50":N,
 *          "blind_us_max":N,"lost":N,"error":"...","arrivals_us":[...]}
 *                                          arrivals after at_ns (CLOCK_MONOTONIC), bytes of one such message; lost: cut
 *                                          off or closed since `connect`
 *     status  {"open":N,"ready":N,"lost":N,"errors":N,"closed_by":N,"error":"..."}
 *     close   cuts every connection off with a reset: {"closed":N}
 *
 * Pings are answered whenever they come. It ends with its input. While it connects or probes it does not sleep: to wake
 * it would be a cost of the server's, for each of its writes, that no server behind a network has.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "control.h"

#define EVENTS 64
#define MARKERS_MAX 6
#define PROBES_MAX 64
#define PROBE_EVERY_NS 1000000
#define MESSAGE_MAX 1048576
#define INPUT UINT32_MAX

enum state { IDLE, CONNECTING, UPGRADING, OPEN, READY, GONE };

struct device {
    int fd;
    enum state state;
    uint32_t arrived;        /* number of the last expectation it met */
    uint32_t kept;           /* bytes of an unfinished message or response head in `rest` */
    char *rest;
    uint8_t found[MARKERS_MAX];
};

struct marker {
    unsigned count;
    const char *text;
    size_t size;
};

static int epoll, port, total, window, sources, block, probes, events_mode, marker_count;
static struct device *devices;
static struct marker markers[MARKERS_MAX];
static int64_t asked_ns[PROBES_MAX]; /* when a probe's ping left; 0: none is under way */
static int64_t pinged_ns;            /* when the last one did */
static unsigned next_probe;

static const unsigned char *requests;
static size_t requests_size;
static const unsigned char **request_at;
static char frame[65536];
static size_t frame_size;

/* A `connect` under way: next device to open, those opened and not yet ready. */
static int connecting, next_device, under_way;
static int64_t connect_began_ns, connect_until_ns, connect_idle_ns;
static int open_count, ready_count, refused, failed, lost, errors, closed_by;

/* An `expect` under way. */
static int expecting, probing, repeated;
static uint32_t expectation;
static char wanted[256];
static size_t wanted_size, message_bytes;
static int64_t expect_at_ns, expect_until_ns, looked_ns, blind_ns;
static int32_t *arrivals_us, *rtts_us;
static int arrived, rtt_count, rtt_room;

static char buffer[262144];

static void drop(struct device *device, int *counter) {
    if (device->fd >= 0) {
        close(device->fd);
        open_count--;
    }
    if (device->state == READY) ready_count--;
    else if (device->state != GONE && device->state != IDLE) under_way--;
    free(device->rest);
    if (device - devices < probes) asked_ns[device - devices] = 0;
    *device = (struct device){.fd = -1, .state = GONE};
    if (counter) (*counter)++;
}

static void watch(struct device *device, int operation, uint32_t what) {
    struct epoll_event event = {.events = what, .data.u32 = (uint32_t)(device - devices)};
    if (epoll_ctl(epoll, operation, device->fd, &event) < 0) die("epoll_ctl");
}

/* ---- connecting ---- */

static void start_device(int number) {
    struct device *device = devices + number;
    int on = 1, source = number % sources;
    *device = (struct device){.fd = -1, .state = IDLE};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        note_errno("socket", errno);
        device->state = GONE;
        failed++;
        return;
    }
    device->fd = fd;
    device->state = CONNECTING;
    open_count++;
    under_way++;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    uint32_t tail = (uint32_t)(source / 250) << 8 | (uint32_t)(source % 250 + 1);
    from.sin_addr.s_addr = htonl(0x7f000000u | (uint32_t)block << 16 | tail);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0 ||
        (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)) {
        note_errno("connect", errno);
        drop(device, &failed);
        return;
    }
    watch(device, EPOLL_CTL_ADD, EPOLLOUT);
}

static void connected(struct device *device) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(device->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (!error) {
        const unsigned char *at = request_at[device - devices];
        uint32_t length;
        memcpy(&length, at, sizeof length);
        /* An empty send buffer takes a request whole. */
        if (send(device->fd, at + sizeof length, length, MSG_NOSIGNAL) != (ssize_t)length) error = errno ? errno : EIO;
    }
    if (error) {
        note_errno("connect", error);
        drop(device, &failed);
        return;
    }
    device->state = UPGRADING;
    watch(device, EPOLL_CTL_MOD, EPOLLIN);
}

static void became_ready(struct device *device) {
    device->state = READY;
    ready_count++;
    under_way--;
}

/* Returns how many bytes the response's head has; 0 while it is unfinished. The device is gone if it was refused. */
static size_t upgraded(struct device *device, const char *bytes, size_t size) {
    const char *end = memmem(bytes, size, "\r\n\r\n", 4);
    if (!end) {
        if (size > 16384) drop(device, &refused);
        return 0;
    }
    if (size < 12 || memcmp(bytes, events_mode ? "HTTP/1.1 200" : "HTTP/1.1 101", 12)) {
        note_error("refused", bytes, size);
        drop(device, &refused);
        return 0;
    }
    device->state = OPEN;
    if (!marker_count) became_ready(device);
    if (frame_size && send(device->fd, frame, frame_size, MSG_NOSIGNAL) != (ssize_t)frame_size) {
        note_errno("subscribe", errno);
        drop(device, &failed);
        return 0;
    }
    return (size_t)(end + 4 - bytes);
}

/* ---- what arrives ---- */

static void look_for_markers(struct device *device, const char *bytes, size_t size) {
    int missing = 0;
    for (int at = 0; at < marker_count; at++) {
        if (device->found[at] < markers[at].count && memmem(bytes, size, markers[at].text, markers[at].size))
            device->found[at]++;
        missing += device->found[at] < markers[at].count;
    }
    if (!missing) became_ready(device);
}

static void text_message(struct device *device, const char *bytes, size_t size) {
    if (expecting && memmem(bytes, size, wanted, wanted_size)) {
        if (device->arrived == expectation) repeated++;
        else {
            device->arrived = expectation;
            message_bytes = size;
            arrivals_us[arrived++] = (int32_t)((now_ns() - expect_at_ns) / 1000);
        }
    }
    if (memmem(bytes, size, "\"type\":\"error\"", 14)) {
        errors++;
        note_error("error frame", bytes, size);
    }
    if (device->state == OPEN) look_for_markers(device, bytes, size);
}

static void pong_received(struct device *device) {
    long at = device - devices;
    if (at >= probes || !asked_ns[at]) return;
    if (probing && rtt_count < rtt_room) rtts_us[rtt_count++] = (int32_t)((now_ns() - asked_ns[at]) / 1000);
    asked_ns[at] = 0;
}

static void answer_ping(struct device *device, const char *payload, size_t size) {
    /* A mask of zeros is a mask: the payload goes as it is. */
    char pong[6 + 125] = {(char)0x8a, (char)(0x80 | size), 0, 0, 0, 0};
    memcpy(pong + 6, payload, size);
    if (send(device->fd, pong, 6 + size, MSG_NOSIGNAL) < 0 && errno != EAGAIN) note_errno("pong", errno);
}

/* Takes one frame; returns its bytes, 0 while it is unfinished or the device is gone. */
static size_t take_frame(struct device *device, const char *bytes, size_t size) {
    const unsigned char *head = (const unsigned char *)bytes;
    if (size < 2) return 0;
    size_t start = 2, length = head[1];
    if (length == 126) {
        if (size < 4) return 0;
        length = (size_t)head[2] << 8 | head[3];
        start = 4;
    } else if (length == 127) {
        if (size < 10) return 0;
        length = 0;
        for (int at = 2; at < 10; at++) length = length << 8 | head[at];
        start = 10;
    }
    if (head[1] & 0x80 || length > MESSAGE_MAX || !(head[0] & 0x80) || (head[0] & 0x0f) == 0) {
        note_error("unexpected frame", "masked, fragmented or too large", 31);
        drop(device, &failed);
        return 0;
    }
    if (size < start + length) return 0;
    const char *payload = bytes + start;
    switch (head[0] & 0x0f) {
    case 1:
    case 2: text_message(device, payload, length); break;
    case 9:
        if (length <= 125) answer_ping(device, payload, length);
        break;
    case 10: pong_received(device); break;
    case 8:
        closed_by = length >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
        note_error("closed", payload, length);
        drop(device, &lost);
        return 0;
    }
    return start + length;
}

/* The same of a server-sent event, which ends in an empty line. */
static size_t take_event(struct device *device, const char *bytes, size_t size) {
    const char *end = memmem(bytes, size, "\n\n", 2);
    if (!end) return 0;
    text_message(device, bytes, (size_t)(end - bytes));
    return (size_t)(end + 2 - bytes);
}

static void keep_rest(struct device *device, const char *bytes, size_t size) {
    char *rest = size ? malloc(size) : NULL;
    if (size && !rest) die("out of memory");
    if (size) memcpy(rest, bytes, size);
    free(device->rest);
    device->rest = rest;
    device->kept = (uint32_t)size;
}

static void readable(struct device *device) {
    size_t kept = device->kept;
    if (kept > sizeof buffer / 2) die("a message of more than %zu bytes", sizeof buffer / 2);
    if (kept) memcpy(buffer, device->rest, kept);
    ssize_t got = recv(device->fd, buffer + kept, sizeof buffer - kept, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        note_errno("cut off", got ? errno : 0);
        drop(device, device->state == UPGRADING ? &refused : &lost);
        return;
    }
    size_t at = 0, size = kept + (size_t)got;
    if (device->state == UPGRADING) at = upgraded(device, buffer, size);
    while (device->state == OPEN || device->state == READY) {
        size_t took = (events_mode ? take_event : take_frame)(device, buffer + at, size - at);
        if (!took) break;
        at += took;
    }
    if (device->state != GONE && (at < size || kept)) keep_rest(device, buffer + at, size - at);
}

/* ---- probing ---- */

/* Sends the next ping, of the next device in turn whose last one was answered. */
static void send_ping(int64_t now) {
    static const char ping[6] = {(char)0x89, (char)0x80, 0, 0, 0, 0};
    for (int tried = 0; tried < probes; tried++) {
        int at = next_probe++ % probes;
        struct device *device = devices + at;
        if (device->state != READY || asked_ns[at]) continue;
        pinged_ns = asked_ns[at] = now;
        if (send(device->fd, ping, sizeof ping, MSG_NOSIGNAL) < 0) note_errno("ping", errno);
        return;
    }
}

/* Looks at the probes before anything else. */
static void look_at_probes(void) {
    int64_t now = now_ns();
    if (now - looked_ns > blind_ns) blind_ns = now - looked_ns;
    for (int at = 0; at < probes; at++)
        if (asked_ns[at]) readable(devices + at);
    now = now_ns();
    if (arrived < ready_count && now - pinged_ns >= PROBE_EVERY_NS) send_ping(now);
    looked_ns = now_ns();
}

static int by_size(const void *a, const void *b) {
    return (*(const int32_t *)a > *(const int32_t *)b) - (*(const int32_t *)a < *(const int32_t *)b);
}

/* ---- commands ---- */

static void load_requests(const char *path) {
    if (requests) munmap((void *)requests, requests_size);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat found;
    if (fd < 0 || fstat(fd, &found) < 0) die("%s", path);
    requests_size = (size_t)found.st_size;
    requests = mmap(NULL, requests_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (requests == MAP_FAILED) die("%s", path);
    close(fd);
    size_t at = 0;
    for (int number = 0; number < total; number++) {
        uint32_t length;
        if (at + sizeof length > requests_size) die("%s has %d requests", path, number);
        memcpy(&length, requests + at, sizeof length);
        request_at[number] = requests + at;
        at += sizeof length + length;
    }
    if (at > requests_size) die("%s is cut off", path);
}

static void load_frame(const char *path) {
    frame_size = 0;
    if (!strcmp(path, "-")) return;
    FILE *file = fopen(path, "rb");
    if (!file) die("%s", path);
    frame_size = fread(frame, 1, sizeof frame, file);
    fclose(file);
}

static void begin_connect(char *arguments) {
    char *timeout = strtok(arguments, " "), *path = strtok(NULL, " "), *frame_path = strtok(NULL, " ");
    if (!frame_path) die("connect TIMEOUT_MS REQUESTS FRAME");
    load_requests(path);
    load_frame(frame_path);
    connecting = 1;
    next_device = under_way = refused = failed = lost = errors = closed_by = 0;
    first_error[0] = 0;
    connect_began_ns = now_ns();
    connect_idle_ns = 0;
    connect_until_ns = connect_began_ns + atoll(timeout) * 1000000;
}

static void go_on_connecting(void) {
    while (next_device < total && under_way < window) start_device(next_device++);
    int done = next_device == total && under_way == 0;
    if (!done && now_ns() < connect_until_ns) return;
    connecting = 0;
    printf("{\"ready\":%d,\"refused\":%d,\"failed\":%d,\"lost\":%d,\"wall_us\":%lld,\"idle_us\":%lld,\"error\":",
           ready_count, refused, failed, lost, (long long)((now_ns() - connect_began_ns) / 1000),
           (long long)(connect_idle_ns / 1000));
    print_json_text(first_error, strlen(first_error), 200);
    puts("}");
    fflush(stdout);
}

static void begin_expecting(char *arguments) {
    char *timeout = strtok(arguments, " "), *with_probes = strtok(NULL, " "), *text = strtok(NULL, "");
    if (!text || strlen(text) >= sizeof wanted) die("expect TIMEOUT_MS PROBING MARKER");
    strcpy(wanted, text);
    wanted_size = strlen(wanted);
    probing = atoi(with_probes);
    expecting = 1;
    expectation++;
    arrived = repeated = rtt_count = 0;
    message_bytes = 0;
    memset(asked_ns, 0, sizeof asked_ns);
    expect_at_ns = looked_ns = now_ns();
    blind_ns = 0;
    expect_until_ns = expect_at_ns + atoll(timeout) * 1000000;
    puts("{\"armed\":true}");
    fflush(stdout);
}

static void go_on_expecting(void) {
    int asked = 0;
    for (int at = 0; probing && at < probes; at++) asked |= asked_ns[at] != 0;
    if ((arrived < ready_count || asked) && now_ns() < expect_until_ns) return;
    expecting = 0;
    /* A ping that was never answered took at least until now. */
    for (int at = 0; probing && at < probes; at++)
        if (asked_ns[at] && rtt_count < rtt_room)
            rtts_us[rtt_count++] = (int32_t)((now_ns() - asked_ns[at]) / 1000);
    qsort(rtts_us, (size_t)rtt_count, sizeof *rtts_us, by_size);
    printf("{\"received\":%d,\"repeated\":%d,\"bytes\":%zu,\"at_ns\":%lld,\"probes\":%d,\"probe_us_max\":%d,"
           "\"probe_us_p50\":%d,\"blind_us_max\":%lld,\"lost\":%d,\"error\":",
           arrived, repeated, message_bytes, (long long)expect_at_ns, rtt_count, rtt_count ? rtts_us[rtt_count - 1] : 0,
           rtt_count ? rtts_us[rtt_count / 2] : 0, (long long)(blind_ns / 1000), lost);
    print_json_text(first_error, strlen(first_error), 200);
    printf(",\"arrivals_us\":[");
    for (int at = 0; at < arrived; at++) printf(at ? ",%d" : "%d", arrivals_us[at]);
    puts("]}");
    fflush(stdout);
    probing = 0;
}

static void say_status(void) {
    printf("{\"open\":%d,\"ready\":%d,\"lost\":%d,\"errors\":%d,\"closed_by\":%d,\"error\":", open_count, ready_count,
           lost, errors, closed_by);
    print_json_text(first_error, strlen(first_error), 200);
    puts("}");
    fflush(stdout);
}

static void close_all(void) {
    int closed = 0;
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    for (int number = 0; number < total; number++) {
        struct device *device = devices + number;
        if (device->fd < 0) continue;
        setsockopt(device->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        drop(device, NULL);
        closed++;
    }
    printf("{\"closed\":%d}\n", closed);
    fflush(stdout);
}

static void obey(char *line) {
    if (!strncmp(line, "connect ", 8)) begin_connect(line + 8);
    else if (!strncmp(line, "expect ", 7)) begin_expecting(line + 7);
    else if (!strcmp(line, "status")) say_status();
    else if (!strcmp(line, "close")) close_all();
    else die("unknown command %s", line);
}

static void set_up(int argc, char **argv) {
    if (argc < 8 || argc % 2 || (argc - 8) / 2 > MARKERS_MAX) die("usage: see load.c");
    port = atoi(argv[1]);
    total = atoi(argv[2]);
    window = atoi(argv[3]);
    sources = atoi(argv[4]);
    block = atoi(argv[5]);
    probes = atoi(argv[6]);
    events_mode = !strcmp(argv[7], "events");
    if (total < 1 || window < 1 || sources < 1 || sources > 62500 || block < 1 || block > 254 || probes < 0 ||
        probes > PROBES_MAX || probes > total)
        die("usage: see load.c");
    for (int at = 8; at < argc; at += 2)
        markers[marker_count++] = (struct marker){(unsigned)atoi(argv[at]), argv[at + 1], strlen(argv[at + 1])};
    rtt_room = 1 << 20;
    devices = calloc((size_t)total, sizeof *devices);
    request_at = calloc((size_t)total, sizeof *request_at);
    arrivals_us = calloc((size_t)total, sizeof *arrivals_us);
    rtts_us = calloc((size_t)rtt_room, sizeof *rtts_us);
    if (!devices || !request_at || !arrivals_us || !rtts_us) die("out of memory");
    for (int number = 0; number < total; number++) devices[number].fd = -1;
    raise_file_limit();
    set_nonblocking(0);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event input = {.events = EPOLLIN, .data.u32 = INPUT};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input) < 0) die("epoll");
}

static int wait_ms(void) {
    if (connecting || (expecting && probing)) return 0;
    return expecting ? 10 : -1;
}

int main(int argc, char **argv) {
    static struct lines lines;
    static char line[LINE_MAX_BYTES];
    set_up(argc, argv);
    for (;;) {
        struct epoll_event events[EVENTS];
        int64_t looked_at_ns = connecting ? now_ns() : 0;
        int found = epoll_wait(epoll, events, EVENTS, wait_ms());
        if (looked_at_ns && found == 0) connect_idle_ns += now_ns() - looked_at_ns;
        if (found < 0 && errno != EINTR) die("epoll_wait");
        for (int at = 0; at < found; at++) {
            if (events[at].data.u32 == INPUT) {
                if (!read_lines(&lines)) return 0;
                while (!connecting && !expecting && next_line(&lines, line)) obey(line);
                continue;
            }
            struct device *device = devices + events[at].data.u32;
            if (device->fd < 0) continue; /* went while this batch was being read */
            if (device->state == CONNECTING) connected(device);
            else readable(device);
            if (probing) look_at_probes();
        }
        if (probing) look_at_probes();
        if (connecting) go_on_connecting();
        if (expecting) go_on_expecting();
        while (!connecting && !expecting && next_line(&lines, line)) obey(line);
    }
}
