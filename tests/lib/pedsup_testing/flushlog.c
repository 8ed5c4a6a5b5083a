/* Preloaded into llama.cpp's programs: at their end the log's thread is waited for.

   llama.cpp leaves that thread behind on purpose (`common_log_main` in common/log.cpp, #22142), and
   lines that it has not written yet are lost. `common_log_pause` joins it. */
#define _GNU_SOURCE
#include <dlfcn.h>

__attribute__((destructor)) static void flush_log(void) {
    void *(*log)(void) = (void *(*)(void))dlsym(RTLD_DEFAULT, "_Z15common_log_mainv");
    void (*pause)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "_Z16common_log_pauseP10common_log");
    if (log && pause)
        pause(log());
}
