/* Starts and stops counting instructions, for a program that runs under callgrind.
   zero and dump concern the calling thread only. */
#include <valgrind/callgrind.h>

void start(void)
{
    CALLGRIND_START_INSTRUMENTATION;
}

void stop(void)
{
    CALLGRIND_STOP_INSTRUMENTATION;
}

void zero(void)
{
    CALLGRIND_ZERO_STATS;
}

void dump(const char *name)
{
    CALLGRIND_DUMP_STATS_AT(name);
}
