/* An inference server with little overhead: upstream PORT MODEL, on 127.0.0.1, until killed.
 *
 * GET /v1/models lists MODEL; GET /health returns 200; GET /bench/posts returns the number of received POSTs.
 * The body of a POST has options at any place, best in its first message, which every proxy passes on:
 *   #bench events=64 pace_us=10000 first_us=500 response=607#
 * With "stream":true it is a chat stream of that many events, one each pace_us microseconds (0: all in one write), the
 * first after first_us (else as the others), and a usage event if "include_usage":true is requested. Else it is one JSON
 * response with a body of that many bytes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_BUFFER = 4096, MAX_HEAP = 65536, MAX_READY = 256 };

typedef struct {
    int fd;
    char *in;
    size_t in_len, in_cap, needed; /* needed: bytes of the complete request once its header block is known, else 0 */
    size_t head_len;
    int chunked, closing;
    char *out; /* bytes that the socket has not yet accepted */
    size_t out_len, out_at;
    long events, sent, pace_us; /* of the stream that is running; events 0: none */
    int usage;
    long long due;
    int heap_at; /* -1: not in the heap */
} Conn;

static int epoll_fd;
static Conn *heap[MAX_HEAP];
static int heap_len;
static long posts;
static const char *model;

static char event[1024], last_event[1024];
static size_t event_len, last_event_len;
static char *response;
static size_t response_len;
static long response_bytes = -1;

static long long now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void *grown(void *block, size_t size)
{
    void *made = realloc(block, size);
    if (!made) {
        perror("realloc");
        exit(1);
    }
    return made;
}

/* Streams by the time of their next event: a binary heap. */

static void heap_place(int at, Conn *conn)
{
    heap[at] = conn;
    conn->heap_at = at;
}

static void heap_settle(int at)
{
    Conn *conn = heap[at];
    while (at > 0 && heap[(at - 1) / 2]->due > conn->due) {
        heap_place(at, heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        int child = 2 * at + 1;
        if (child + 1 < heap_len && heap[child + 1]->due < heap[child]->due)
            child++;
        if (child >= heap_len || heap[child]->due >= conn->due)
            break;
        heap_place(at, heap[child]);
        at = child;
    }
    heap_place(at, conn);
}

static void heap_add(Conn *conn)
{
    if (heap_len == MAX_HEAP) {
        fprintf(stderr, "more than %d streams\n", MAX_HEAP);
        exit(1);
    }
    heap_place(heap_len++, conn);
    heap_settle(conn->heap_at);
}

static void heap_remove(Conn *conn)
{
    int at = conn->heap_at;
    if (at < 0)
        return;
    conn->heap_at = -1;
    Conn *moved = heap[--heap_len];
    if (moved != conn) {
        heap_place(at, moved);
        heap_settle(at);
    }
}

/* Responses */

static size_t make_event(char *to, size_t room, const char *text, const char *finish)
{
    char body[900];
    int length = snprintf(body, sizeof body,
        "data: {\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion.chunk\","
        "\"created\":1790000000,\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},"
        "\"logprobs\":null,\"finish_reason\":%s}]}\n\n", model, text, finish);
    return (size_t)snprintf(to, room, "%x\r\n%s\r\n", (unsigned)length, body);
}

static void make_response(long bytes)
{
    const char *start = "{\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion\","
        "\"created\":1790000000,\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"";
    const char *end = "\",\"tool_calls\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":312,\"completion_tokens\":58,\"total_tokens\":370}}";
    char opening[600];
    int opened = snprintf(opening, sizeof opening, start, model);
    long padding = bytes - opened - (long)strlen(end);
    if (padding < 0)
        padding = 0;
    response = grown(response, (size_t)(opened + padding) + strlen(end) + 300);
    int at = sprintf(response, "HTTP/1.1 200 OK\r\ndate: Mon, 21 Sep 2026 14:13:20 GMT\r\nserver: bench\r\n"
        "content-type: application/json\r\ncontent-length: %ld\r\n\r\n", opened + padding + (long)strlen(end));
    memcpy(response + at, opening, (size_t)opened);
    at += opened;
    for (long i = 0; i < padding; i++)
        response[at++] = "the quick brown fox "[i % 20];
    memcpy(response + at, end, strlen(end));
    response_len = (size_t)at + strlen(end);
    response_bytes = bytes;
}

static const char stream_head[] = "HTTP/1.1 200 OK\r\ndate: Mon, 21 Sep 2026 14:13:20 GMT\r\nserver: bench\r\n"
    "content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

/* Returns 0, or -1 when the connection is broken. */
static int send_all(Conn *conn, const char *data, size_t length)
{
    size_t sent = 0;
    if (!conn->out_len) {
        ssize_t n = send(conn->fd, data, length, MSG_NOSIGNAL);
        if (n == (ssize_t)length)
            return 0;
        if (n < 0 && errno != EAGAIN)
            return -1;
        sent = n < 0 ? 0 : (size_t)n;
        conn->out_at = 0;
        struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT, .data.ptr = conn};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, conn->fd, &wanted);
    }
    conn->out = grown(conn->out, conn->out_at + conn->out_len + length - sent);
    memcpy(conn->out + conn->out_at + conn->out_len, data + sent, length - sent);
    conn->out_len += length - sent;
    return 0;
}

static int flush(Conn *conn)
{
    ssize_t n = send(conn->fd, conn->out + conn->out_at, conn->out_len, MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN ? 0 : -1;
    conn->out_at += (size_t)n;
    conn->out_len -= (size_t)n;
    if (!conn->out_len) {
        free(conn->out);
        conn->out = NULL;
        conn->out_at = 0;
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = conn};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, conn->fd, &wanted);
    }
    return 0;
}

/* The last event, usage if requested, [DONE] and the end of the body, in one write. */
static int end_stream(Conn *conn)
{
    char tail[2600], usage[700];
    memcpy(tail, last_event, last_event_len);
    size_t at = last_event_len;
    if (conn->usage) {
        int length = snprintf(usage, sizeof usage,
            "data: {\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion.chunk\","
            "\"created\":1790000000,\"model\":\"%s\",\"choices\":[],\"usage\":{\"prompt_tokens\":312,"
            "\"completion_tokens\":%ld,\"total_tokens\":%ld}}\n\n", model, conn->events, 312 + conn->events);
        at += (size_t)sprintf(tail + at, "%x\r\n%s\r\n", (unsigned)length, usage);
    }
    at += (size_t)sprintf(tail + at, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    conn->events = 0;
    return send_all(conn, tail, at);
}

static int burst(Conn *conn)
{
    size_t size = sizeof stream_head + (size_t)conn->events * event_len, at = sizeof stream_head - 1;
    char *all = grown(NULL, size);
    memcpy(all, stream_head, at);
    for (long i = 0; i < conn->events - 1; i++, at += event_len)
        memcpy(all + at, event, event_len);
    int broken = send_all(conn, all, at);
    free(all);
    return broken ? -1 : end_stream(conn);
}

static long option(const char *options, size_t length, const char *name, long otherwise)
{
    const char *found = memmem(options, length, name, strlen(name));
    return found ? atol(found + strlen(name)) : otherwise;
}

static int respond_to_post(Conn *conn, const char *body, size_t length)
{
    posts++;
    const char *options = memmem(body, length, "#bench ", 7);
    size_t options_len = options ? (size_t)(body + length - options) : 0;
    if (options_len > 100)
        options_len = 100;
    if (!memmem(body, length, "\"stream\":true", 13) && !memmem(body, length, "\"stream\": true", 14)) {
        long bytes = option(options, options_len, "response=", 607);
        if (bytes != response_bytes)
            make_response(bytes);
        return send_all(conn, response, response_len);
    }
    conn->events = option(options, options_len, "events=", 64);
    conn->pace_us = option(options, options_len, "pace_us=", 0);
    conn->usage = memmem(body, length, "\"include_usage\":true", 20) || memmem(body, length, "\"include_usage\": true", 21);
    conn->sent = 0;
    if (!conn->pace_us)
        return burst(conn);
    if (send_all(conn, stream_head, sizeof stream_head - 1))
        return -1;
    conn->due = now_us() + option(options, options_len, "first_us=", conn->pace_us);
    heap_add(conn);
    return 0;
}

static int respond_to_get(Conn *conn)
{
    char body[400], reply[700];
    int found = 1;
    if (!strncmp(conn->in, "GET /v1/models", 14))
        snprintf(body, sizeof body, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1,\"owned_by\":\"vllm\"}]}", model);
    else if (!strncmp(conn->in, "GET /bench/posts", 16))
        snprintf(body, sizeof body, "%ld", posts);
    else if (!strncmp(conn->in, "GET /health ", 12))
        snprintf(body, sizeof body, "{\"status\":\"ok\"}");
    else
        found = snprintf(body, sizeof body, "{\"error\":\"not found\"}") < 0;
    int length = snprintf(reply, sizeof reply, "HTTP/1.1 %s\r\nserver: bench\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
        found ? "200 OK" : "404 Not Found", strlen(body), body);
    return send_all(conn, reply, (size_t)length);
}

/* Requests */

static int read_head(Conn *conn)
{
    char *end = memmem(conn->in, conn->in_len, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t length = 0;
    conn->head_len = (size_t)(end - conn->in) + 4;
    conn->chunked = conn->closing = 0;
    for (char *line = conn->in; line < end;) {
        if (!strncasecmp(line, "content-length:", 15))
            length = strtoul(line + 15, NULL, 10);
        else if (!strncasecmp(line, "transfer-encoding:", 18))
            conn->chunked = 1;
        else if (!strncasecmp(line, "connection: close", 17))
            conn->closing = 1;
        char *next = memchr(line, '\n', (size_t)(end + 4 - line));
        line = next ? next + 1 : end;
    }
    conn->needed = conn->head_len + length;
    return 1;
}

/* Responds to every complete request that has arrived. Returns 0, or -1 to close. */
static int work(Conn *conn)
{
    while (conn->in_len && !conn->events) {
        conn->in[conn->in_len] = 0;
        if (!conn->needed && !read_head(conn))
            return 0;
        if (conn->chunked) {
            char *end = conn->in_len >= 5 ? conn->in + conn->in_len - 5 : NULL;
            if (!end || conn->in_len < conn->head_len + 5 || memcmp(end, "0\r\n\r\n", 5))
                return 0;
            conn->needed = conn->in_len;
        }
        if (conn->in_len < conn->needed)
            return 0;
        size_t whole = conn->needed;
        conn->needed = 0;
        int broken = strncmp(conn->in, "POST ", 5) ? respond_to_get(conn)
                                                    : respond_to_post(conn, conn->in + conn->head_len, whole - conn->head_len);
        if (broken)
            return -1;
        memmove(conn->in, conn->in + whole, conn->in_len - whole);
        conn->in_len -= whole;
        if (conn->closing && !conn->events && !conn->out_len)
            return -1;
    }
    return 0;
}

static void close_conn(Conn *conn)
{
    heap_remove(conn);
    close(conn->fd);
    free(conn->in);
    free(conn->out);
    free(conn);
}

static int receive(Conn *conn)
{
    size_t wanted = conn->needed + 1 > conn->in_len + FIRST_BUFFER ? conn->needed + 1 : conn->in_len + FIRST_BUFFER;
    if (conn->in_cap < wanted)
        conn->in = grown(conn->in, conn->in_cap = wanted);
    ssize_t n = recv(conn->fd, conn->in + conn->in_len, conn->in_cap - conn->in_len - 1, 0);
    if (n <= 0)
        return n < 0 && errno == EAGAIN ? 0 : -1;
    conn->in_len += (size_t)n;
    return work(conn);
}

static void accept_all(int listening)
{
    int fd, one = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Conn *conn = calloc(1, sizeof *conn);
        conn->fd = fd;
        conn->heap_at = -1;
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = conn};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &wanted);
    }
}

static void send_due(void)
{
    long long now = now_us();
    while (heap_len && heap[0]->due <= now) {
        Conn *conn = heap[0];
        int broken;
        if (++conn->sent < conn->events) {
            conn->due += conn->pace_us;
            heap_settle(0);
            broken = send_all(conn, event, event_len);
        } else {
            heap_remove(conn);
            broken = end_stream(conn) || (conn->closing && !conn->out_len) || work(conn);
        }
        if (broken)
            close_conn(conn);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: upstream PORT MODEL\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    model = argv[2];
    event_len = make_event(event, sizeof event, " token", "null");
    last_event_len = make_event(last_event, sizeof last_event, " end", "\"stop\"");
    make_response(607);
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 4096)) {
        perror("upstream");
        return 1;
    }
    epoll_fd = epoll_create1(0);
    struct epoll_event wanted = {.events = EPOLLIN}, ready[MAX_READY];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listening, &wanted);
    for (;;) {
        long long wait = heap_len ? heap[0]->due - now_us() : -1;
        int n = epoll_wait(epoll_fd, ready, MAX_READY, !heap_len ? -1 : wait <= 0 ? 0 : (int)((wait + 999) / 1000));
        for (int i = 0; i < n; i++) {
            Conn *conn = ready[i].data.ptr;
            if (!conn) {
                accept_all(listening);
                continue;
            }
            int broken = 0;
            if (ready[i].events & EPOLLOUT && conn->out_len)
                broken = flush(conn) || (conn->closing && !conn->out_len && !conn->events);
            if (!broken && ready[i].events & ~EPOLLOUT)
                broken = receive(conn);
            if (broken)
                close_conn(conn);
        }
        send_due();
    }
}
