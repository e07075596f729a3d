/* The smallest worker. */
#include "worker.h"

static int hello(worker *w) {
    worker_set_header(w, "content-type", "text/plain; charset=utf-8");
    worker_print(w, "Hello from C\n");
    return 0;
}

int main(void) { return worker_serve(hello); }
