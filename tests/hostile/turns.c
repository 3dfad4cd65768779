/* Measures the turns of an event loop by the CPU clock of its thread. Preloaded into a process (LD_PRELOAD), it takes the
   place of epoll_wait and epoll_pwait: what a thread computes between two waits is one turn.

   The directory that HOSTILE_TURNS names gets a file for each process, named by its id, of three 64-bit words: turns,
   the longest turn, CPU time of all; times in ns. Only the main thread writes them. */

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

enum { TURNS, LONGEST, ALL, WORDS };

static volatile uint64_t *page;
static uint64_t begun; /* CPU time at the end of the last wait; 0 before the first */

static uint64_t cpu_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

__attribute__((constructor)) static void open_page(void)
{
    const char *directory = getenv("HOSTILE_TURNS");
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
    if (measured() && begun != 0) {
        uint64_t turn = cpu_time() - begun;
        page[TURNS] += 1;
        page[ALL] += turn;
        if (turn > page[LONGEST])
            page[LONGEST] = turn;
    }
    int found = (int)syscall(SYS_epoll_pwait, poll, events, most, timeout, mask, (size_t)_NSIG / 8);
    if (measured())
        begun = cpu_time();
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
