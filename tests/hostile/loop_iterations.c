/* Measures the iterations of an event loop by the CPU clock of its thread. Preloaded into a process (LD_PRELOAD), it
   replaces epoll_wait and epoll_pwait: the time between two waits is one loop iteration.

   In the directory HOSTILE_LOOP_ITERATIONS, each process has a file named by its process id. It has three 64-bit words:
   number of iterations, longest iteration, total; times are CPU time in ns. Only the main thread writes them. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, LONGEST, TOTAL, WORDS };

static volatile uint64_t *page;
static uint64_t started; /* CPU time at the end of the last wait; 0 before the first */

static uint64_t cpu_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

__attribute__((constructor)) static void open_page(void)
{
    const char *directory = getenv("HOSTILE_LOOP_ITERATIONS");
    char path[4096];
    int file = -1;
    if (directory && snprintf(path, sizeof path, "%s/%d", directory, getpid()) < (int)sizeof path)
        file = open(path, O_RDWR | O_CREAT, 0600);
    if (file < 0)
        return;
    if (ftruncate(file, WORDS * sizeof *page) == 0) {
        void *mapped = mmap(NULL, WORDS * sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        page = mapped == MAP_FAILED ? NULL : mapped;
    }
    close(file);
}

static int measured(void)
{
    return page != NULL && syscall(SYS_gettid) == getpid();
}

static int wait_for(int poll, struct epoll_event *events, int most, int timeout, const sigset_t *mask)
{
    if (measured() && started != 0) {
        uint64_t iteration = cpu_time() - started;
        page[COUNT] += 1;
        page[TOTAL] += iteration;
        if (iteration > page[LONGEST])
            page[LONGEST] = iteration;
    }
    int found = (int)syscall(SYS_epoll_pwait, poll, events, most, timeout, mask, (size_t)_NSIG / 8);
    if (measured())
        started = cpu_time();
    return found;
}

int epoll_wait(int poll, struct epoll_event *events, int most, int timeout)
{
    return wait_for(poll, events, most, timeout, NULL);
}

int epoll_pwait(int poll, struct epoll_event *events, int most, int timeout, const sigset_t *mask)
{
    return wait_for(poll, events, most, timeout, mask);
}
