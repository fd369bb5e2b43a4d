/* The floor under every fan-out: what the kernel itself asks for, and nothing more.
 *
 *     floor
 *
 * Listens on a free port of 127.0.0.1 and says {"port":N}. Any request ending in an empty line is answered with the
 * same 101 response, unread; what a client sends afterwards is read and dropped. Commands on standard input:
 *
 *     send HEX      non-blocking send() of these bytes to every client; answers {"written":N,"blocked":N}
 *
 * It ends with its input. One thread, one epoll, no timers, no memory per client but three integers.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "control.h"

#define FILES_MAX 1048576
#define EVENTS 256

static const char RESPONSE[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static int clients[FILES_MAX];     /* descriptors of upgraded clients, dense */
static int place[FILES_MAX];       /* descriptor -> index in clients */
static unsigned char seen[FILES_MAX]; /* descriptor -> matched bytes of the empty line; 4 when upgraded */
static int count;
static char buffer[65536];

static void forget(int fd) {
    if (seen[fd] == 4) {
        int last = clients[--count];
        clients[place[fd]] = last;
        place[last] = place[fd];
    }
    seen[fd] = 0;
    close(fd);
}

static void accept_all(int listener, int epoll) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) return;
            die("accept");
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
        seen[fd] = 0;
    }
}

static void readable(int fd) {
    ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        forget(fd);
        return;
    }
    if (seen[fd] == 4) return;
    for (ssize_t at = 0; at < got && seen[fd] < 4; at++) {
        int expects_cr = seen[fd] % 2 == 0;
        if (buffer[at] == (expects_cr ? '\r' : '\n')) seen[fd]++;
        else seen[fd] = buffer[at] == '\r';
    }
    if (seen[fd] == 4) {
        place[fd] = count;
        clients[count++] = fd;
        if (send(fd, RESPONSE, sizeof RESPONSE - 1, MSG_NOSIGNAL) < 0) forget(fd);
    }
}

static size_t from_hex(const char *hex, unsigned char *bytes) {
    size_t size = 0;
    for (; hex[0] && hex[1]; hex += 2) {
        char pair[3] = {hex[0], hex[1], 0};
        bytes[size++] = (unsigned char)strtoul(pair, NULL, 16);
    }
    return size;
}

static void send_all(const char *hex) {
    static unsigned char bytes[LINE_MAX_BYTES];
    size_t size = from_hex(hex, bytes);
    int written = 0, blocked = 0;
    for (int at = 0; at < count; at++) {
        if (send(clients[at], bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size) written++;
        else blocked++;
    }
    printf("{\"written\":%d,\"blocked\":%d}\n", written, blocked);
    fflush(stdout);
}

static int listen_anywhere(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 4096) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        die("listen");
    printf("{\"port\":%d}\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(void) {
    static struct lines lines;
    static char line[LINE_MAX_BYTES];
    raise_file_limit();
    set_nonblocking(0);
    int epoll = epoll_create1(EPOLL_CLOEXEC), listener = listen_anywhere();
    struct epoll_event input = {.events = EPOLLIN, .data.fd = 0}, coming = {.events = EPOLLIN, .data.fd = listener};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input) < 0 ||
        epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &coming) < 0)
        die("epoll");
    for (;;) {
        struct epoll_event events[EVENTS];
        int found = epoll_wait(epoll, events, EVENTS, -1);
        if (found < 0 && errno != EINTR) die("epoll_wait");
        for (int at = 0; at < found; at++) {
            int fd = events[at].data.fd;
            if (fd == listener) accept_all(listener, epoll);
            else if (fd != 0) readable(fd);
            else {
                if (!read_lines(&lines)) return 0;
                while (next_line(&lines, line)) {
                    if (strncmp(line, "send ", 5)) die("unknown command %s", line);
                    send_all(line + 5);
                }
            }
        }
    }
}
