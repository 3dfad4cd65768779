/* Clients with little overhead, on 127.0.0.1. The request is the bytes of a file. Each client prints one JSON object.
 *
 *   load streams PORT FILE CONNECTIONS SECONDS EVENTS   each connection requests one stream after the other; none starts
 *                                                       after SECONDS, started streams are read to their end
 *   load rate PORT FILE RATE SECONDS                    RATE requests a second even without responses (open loop),
 *                                                       each on an idle connection, or on a new one if none is idle
 *   load hold PORT FILE CONNECTIONS SECONDS             opens that many streams, waits for the first event of each, prints,
 *                                                       and reads on until its standard input ends
 *
 * A stream is complete if its status is 200, its chunks are well formed, it has EVENTS events before [DONE] and
 * nothing after it. Times are of CLOCK_MONOTONIC, in µs.
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

enum { HEAD_BYTES = 8192, MAX_READY = 256, OPENING_AT_ONCE = 64 };
enum Where { IN_HEAD, IN_BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, DONE };

typedef struct Conn {
    int fd, busy, writing;
    size_t sent;
    char head[HEAD_BYTES];
    size_t head_len;
    enum Where where;
    int status, chunked, closing, line_len; /* closing: the server closes; line_len: of the trailer line, or digits of the chunk size */
    long long left;                /* bytes of the body or of the chunk */
    char start[16];                /* of the event that is being received */
    int start_len, after_newline;
    long events;
    int done;
    long long began, first, previous, gap;
    struct Conn *next_idle;
} Conn;

typedef struct {
    double *values;
    size_t count, room;
} List;

static int epoll_fd, port;
static char *request;
static size_t request_len;
static Conn *idle;
static long opened, whole, miscounted, unfinished, refused, broken, events_seen, streams_started, in_flight;
static List durations, firsts, gaps;
static int open_loop;

static long long now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void add(List *list, double value)
{
    if (list->count == list->room) {
        list->room = list->room ? list->room * 2 : 4096;
        list->values = realloc(list->values, list->room * sizeof *list->values);
    }
    list->values[list->count++] = value;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_list(const char *name, List *list)
{
    qsort(list->values, list->count, sizeof *list->values, by_value);
    double p50 = list->count ? list->values[list->count / 2] : 0;
    double p99 = list->count ? list->values[list->count * 99 / 100] : 0;
    double most = list->count ? list->values[list->count - 1] : 0;
    printf(", \"%s\": {\"p50\": %.0f, \"p99\": %.0f, \"max\": %.0f}", name, p50, p99, most);
}

static void print_all(double seconds)
{
    printf("{\"seconds\": %.6f, \"whole\": %ld, \"miscounted\": %ld, \"unfinished\": %ld, \"refused\": %ld, \"broken\": %ld, "
           "\"events\": %ld, \"started\": %ld, \"connections\": %ld", seconds, whole, miscounted, unfinished, refused, broken, events_seen, streams_started, opened);
    print_list("duration_us", &durations);
    print_list("first_us", &firsts);
    print_list("gap_us", &gaps);
    printf("}\n");
    fflush(stdout);
}

static Conn *connect_one(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || (connect(fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)) {
        perror("connect");
        exit(1);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    Conn *conn = calloc(1, sizeof *conn);
    conn->fd = fd;
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = conn};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &wanted);
    opened++;
    return conn;
}

static void want(Conn *conn, int writing)
{
    if (conn->writing == writing)
        return;
    conn->writing = writing;
    struct epoll_event wanted = {.events = writing ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = conn};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, conn->fd, &wanted);
}

static void send_more(Conn *conn)
{
    ssize_t n = send(conn->fd, request + conn->sent, request_len - conn->sent, MSG_NOSIGNAL);
    if (n > 0)
        conn->sent += (size_t)n;
    want(conn, conn->sent < request_len); /* an error is reported by the read */
}

static void ask(Conn *conn)
{
    conn->busy = 1;
    conn->sent = conn->head_len = 0;
    conn->where = IN_HEAD;
    conn->start_len = conn->done = conn->events = 0;
    conn->after_newline = 1;
    conn->first = conn->previous = conn->gap = 0;
    conn->began = now_us();
    in_flight++;
    send_more(conn);
}

static void event_ended(Conn *conn, long long now)
{
    int is_done = conn->start_len >= 12 && !memcmp(conn->start, "data: [DONE]", 12);
    int is_data = conn->start_len > 0 && conn->start[0] != ':';
    conn->start_len = 0;
    if (is_done)
        conn->done++;
    else if (is_data) {
        conn->events += conn->done ? 1000000 : 1; /* none may follow [DONE] */
        events_seen++;
        if (!conn->first) {
            conn->first = now;
            streams_started++;
        } else if (now - conn->previous > conn->gap)
            conn->gap = now - conn->previous;
        conn->previous = now;
    }
}

static void body_bytes(Conn *conn, const char *data, long long length, long long now)
{
    if (open_loop)
        return;
    for (long long i = 0; i < length; i++) {
        char byte = data[i];
        if (byte == '\r')
            continue;
        if (byte == '\n') {
            if (conn->after_newline)
                event_ended(conn, now);
            conn->after_newline = 1;
            continue;
        }
        conn->after_newline = 0;
        if (conn->start_len < (int)sizeof conn->start)
            conn->start[conn->start_len++] = byte;
    }
}

/* Returns the parsed bytes of the header block, or -1 while it is incomplete. */
static long read_head(Conn *conn, const char *data, long length)
{
    size_t before = conn->head_len;
    size_t taken = (size_t)length < HEAD_BYTES - 1 - before ? (size_t)length : HEAD_BYTES - 1 - before;
    memcpy(conn->head + before, data, taken);
    conn->head_len += taken;
    conn->head[conn->head_len] = 0;
    char *end = strstr(conn->head, "\r\n\r\n");
    if (!end)
        return -1;
    conn->status = atoi(conn->head + 9);
    conn->chunked = conn->closing = 0;
    conn->left = 0;
    for (char *line = conn->head; line && line < end; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        if (!strncasecmp(line, "content-length:", 15))
            conn->left = atoll(line + 15);
        else if (!strncasecmp(line, "transfer-encoding:", 18))
            conn->chunked = 1;
        else if (!strncasecmp(line, "connection: close", 17))
            conn->closing = 1;
    }
    conn->where = conn->chunked ? CHUNK_SIZE : conn->left ? IN_BODY : DONE;
    if (conn->chunked)
        conn->left = 0;
    conn->line_len = 0;
    return end + 4 - conn->head - (long)before;
}

/* Parses one byte of chunk framing. Returns 0, or -1 if it is malformed. */
static int frame_byte(Conn *conn, char byte)
{
    if (byte == '\r')
        return 0;
    if (conn->where == CHUNK_END) {
        conn->where = CHUNK_SIZE;
        conn->line_len = 0;
        return byte == '\n' ? 0 : -1;
    }
    if (byte != '\n') {
        conn->line_len++;
        if (conn->where == TRAILER)
            return 0;
        int digit = byte >= '0' && byte <= '9' ? byte - '0' : (byte | 32) >= 'a' && (byte | 32) <= 'f' ? (byte | 32) - 'a' + 10 : -1;
        conn->left = conn->left * 16 + digit;
        return digit;
    }
    if (conn->where == TRAILER) {
        conn->where = conn->line_len ? TRAILER : DONE;
        conn->line_len = 0;
    } else if (!conn->line_len) {
        return -1;
    } else {
        conn->where = conn->left ? CHUNK_DATA : TRAILER;
        conn->line_len = 0;
    }
    return 0;
}

/* Returns 0, or -1 if the bytes are not a response. */
static int feed(Conn *conn, const char *data, long length, long long now)
{
    while (length > 0) {
        long used = 1;
        if (conn->where == IN_HEAD) {
            used = read_head(conn, data, length);
            if (used < 0)
                return conn->head_len < HEAD_BYTES - 1 ? 0 : -1;
        } else if (conn->where == IN_BODY || conn->where == CHUNK_DATA) {
            used = length < conn->left ? length : (long)conn->left;
            body_bytes(conn, data, used, now);
            conn->left -= used;
            if (!conn->left)
                conn->where = conn->where == IN_BODY ? DONE : CHUNK_END;
        } else if (conn->where == DONE || frame_byte(conn, *data) < 0) {
            return -1;
        }
        data += used;
        length -= used;
    }
    return 0;
}

static void drop(Conn *conn)
{
    if (conn->busy) {
        broken++;
        in_flight--;
    }
    close(conn->fd);
    conn->fd = -1; /* not freed before the end of the process: it may be in `idle` */
}

static void record_response(Conn *conn, long expected, long long now)
{
    conn->busy = 0;
    in_flight--;
    if (conn->status != 200)
        refused++;
    else if (!open_loop && conn->done != 1)
        unfinished++;
    else if (!open_loop && conn->events != expected)
        miscounted++;
    else
        whole++;
    add(&durations, (double)(now - conn->began));
    if (conn->first) {
        add(&firsts, (double)(conn->first - conn->began));
        add(&gaps, (double)conn->gap);
    }
}

/* Reads available bytes. Returns 1 when a response is complete, 0 before that, -1 when the connection is closed. */
static int receive(Conn *conn)
{
    static char data[1 << 18];
    ssize_t n = recv(conn->fd, data, sizeof data, 0);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0 || !conn->busy || feed(conn, data, n, now_us())) {
        drop(conn);
        return -1;
    }
    return conn->where == DONE;
}

static int wait_for(struct epoll_event *ready, long long until)
{
    long long left = until - now_us();
    if (left < 0)
        left = 0;
    struct timespec wait = {.tv_sec = left / 1000000, .tv_nsec = left % 1000000 * 1000};
    return epoll_pwait2(epoll_fd, ready, MAX_READY, &wait, NULL);
}

static void run_streams(long connections, double seconds, long expected)
{
    struct epoll_event ready[MAX_READY];
    long long start = now_us(), end = start + (long long)(seconds * 1e6), patience = end + 30000000;
    long long spread = (long long)(seconds * 1e6 / 4); /* the connections start one after the other within this time */
    if (spread > 500000)
        spread = 500000;
    long started = 0;
    for (;;) {
        long long now = now_us();
        while (started < connections && now >= start + spread * started / connections) {
            ask(connect_one());
            started++;
        }
        if ((now >= end && !in_flight) || now >= patience)
            break;
        long long next = started < connections ? start + spread * started / connections : now < end ? end : patience;
        int n = wait_for(ready, next);
        for (int i = 0; i < n; i++) {
            Conn *conn = ready[i].data.ptr;
            if (ready[i].events & EPOLLOUT)
                send_more(conn);
            int found = ready[i].events & ~EPOLLOUT ? receive(conn) : 0;
            now = now_us();
            if (found > 0) {
                record_response(conn, expected, now);
                if (conn->closing)
                    drop(conn);
                if (now < end)
                    ask(conn->closing ? connect_one() : conn);
            } else if (found < 0 && now < end) {
                ask(connect_one());
            }
        }
    }
    broken += in_flight; /* requests that did not end within the timeout */
    print_all((double)(now_us() - start) / 1e6);
}

static void run_rate(double rate, double seconds)
{
    struct epoll_event ready[MAX_READY];
    long long start = now_us(), patience = start + (long long)(seconds * 1e6) + 10000000;
    long total = (long)(rate * seconds), sent = 0;
    open_loop = 1;
    while (sent < total || in_flight) {
        long long now = now_us();
        if (now >= patience)
            break;
        while (sent < total && now >= start + (long long)(sent * 1e6 / rate)) {
            while (idle && idle->fd < 0)
                idle = idle->next_idle;
            Conn *conn = idle;
            if (conn)
                idle = conn->next_idle;
            else
                conn = connect_one();
            ask(conn);
            sent++;
        }
        int n = wait_for(ready, sent < total ? start + (long long)(sent * 1e6 / rate) : patience);
        for (int i = 0; i < n; i++) {
            Conn *conn = ready[i].data.ptr;
            if (ready[i].events & EPOLLOUT)
                send_more(conn);
            if (ready[i].events & ~EPOLLOUT && receive(conn) > 0) {
                record_response(conn, 0, now_us());
                if (conn->closing) {
                    drop(conn);
                    continue;
                }
                conn->next_idle = idle;
                idle = conn;
            }
        }
    }
    broken += in_flight;
    print_all((double)(now_us() - start) / 1e6);
}

static void hold_until(long connections, long long end)
{
    struct epoll_event ready[MAX_READY];
    while (end ? now_us() < end && streams_started < connections : 1) {
        while (opened < connections && opened - streams_started < OPENING_AT_ONCE)
            ask(connect_one());
        int n = wait_for(ready, end ? end : now_us() + 60000000);
        for (int i = 0; i < n; i++) {
            Conn *conn = ready[i].data.ptr;
            if (!conn)
                return; /* standard input is closed */
            if (ready[i].events & EPOLLOUT)
                send_more(conn);
            if (ready[i].events & ~EPOLLOUT)
                receive(conn);
        }
    }
}

static void run_hold(long connections, double seconds)
{
    long long start = now_us();
    hold_until(connections, start + (long long)(seconds * 1e6));
    print_all((double)(now_us() - start) / 1e6);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &wanted); /* a pipe without data: it is ready when it is closed */
    opened = streams_started = connections;
    hold_until(connections, 0);
}

static void read_request(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    request_len = (size_t)ftell(file);
    rewind(file);
    request = malloc(request_len);
    if (fread(request, 1, request_len, file) != request_len) {
        perror(path);
        exit(1);
    }
    fclose(file);
}

int main(int argc, char **argv)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_TIMERSLACK, 1UL);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll_fd = epoll_create1(0);
    if (argc >= 6) {
        port = atoi(argv[2]);
        read_request(argv[3]);
        if (!strcmp(argv[1], "streams") && argc == 7)
            return run_streams(atol(argv[4]), atof(argv[5]), atol(argv[6])), 0;
        if (!strcmp(argv[1], "rate"))
            return run_rate(atof(argv[4]), atof(argv[5])), 0;
        if (!strcmp(argv[1], "hold"))
            return run_hold(atol(argv[4]), atof(argv[5])), 0;
    }
    fprintf(stderr, "usage: load streams|rate|hold PORT FILE …\n");
    return 2;
}
