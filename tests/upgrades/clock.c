/* Shifts the wall clock of a process by SHIFTED_CLOCK_SECONDS (LD_PRELOAD), so that traffic has a past of several days.
   If SHIFTED_CLOCK_FILE names a file, its first 8 bytes are seconds that are added, too: whoever writes them sets the
   clock of running processes. The monotonic clock stays as it is. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t shift;
static const int64_t nothing;
static const volatile int64_t *more = &nothing;

__attribute__((constructor)) static void read_shift(void)
{
    const char *seconds = getenv("SHIFTED_CLOCK_SECONDS");
    const char *path = getenv("SHIFTED_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    shift = seconds ? (time_t)atoll(seconds) : 0;
    if (file >= 0) {
        void *mapped = mmap(NULL, sizeof *more, PROT_READ, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED)
            more = mapped;
        close(file);
    }
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += shift + (time_t)*more;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec at;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &at))
        return -1;
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return -1;
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

/* Waits for semaphores end at a time of the wall clock. Without this, one in the past would end each of them at once. */
int sem_timedwait(sem_t *semaphore, const struct timespec *until)
{
    struct timespec unshifted = *until;
    unshifted.tv_sec -= shift + (time_t)*more;
    return sem_clockwait(semaphore, CLOCK_REALTIME, &unshifted);
}
