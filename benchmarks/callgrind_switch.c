/* Starts and stops counting instructions, for a program that runs under callgrind. */
#include <valgrind/callgrind.h>

void start(void)
{
    CALLGRIND_START_INSTRUMENTATION;
}

void stop(void)
{
    CALLGRIND_STOP_INSTRUMENTATION;
}
