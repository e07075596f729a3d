/* Every feature of a worker; kits/README.md says what each answers. */
#define _GNU_SOURCE /* getentropy */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker.h"

static int calls;

/* An absent text is an empty one. */
static const char *or_empty(const char *text) { return text == NULL ? "" : text; }

static int failure(const char *cause) {
    worker_log(cause);
    return 1;
}

static int hello(worker *w) {
    worker_print(w, "Hello, ");
    worker_print(w, or_empty(worker_query(w, "name")));
    worker_print(w, "!");
    return 0;
}

static int vars(worker *w) {
    worker_print(w, or_empty(getenv("GREETING")));
    return 0;
}

static int count(worker *w) {
    const worker_text *value = worker_kv_get(w, "count");
    char next[24];
    snprintf(next, sizeof next, "%ld", (value == NULL ? 0 : strtol(value->data, NULL, 10)) + 1);
    worker_kv_set(w, "count", next, strlen(next));
    worker_print(w, next);
    return 0;
}

static int forget(worker *w) {
    worker_kv_delete(w, "count");
    worker_print(w, "forgotten");
    return 0;
}

static int keep(worker *w) {
    if (strcmp(w->method.data, "POST") == 0) worker_kv_set(w, "kept", w->body.data, w->body.size);
    const worker_text *value = worker_kv_get(w, "kept");
    if (value != NULL) worker_write(w, value->data, value->size);
    return 0;
}

static int answer_file(worker *w, const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) return failure("cannot open the file");
    char part[4096];
    size_t got;
    while ((got = fread(part, 1, sizeof part, file)) > 0) worker_write(w, part, got);
    int failed = ferror(file);
    fclose(file);
    return failed ? failure("cannot read the file") : 0;
}

static int read_file(worker *w) { return answer_file(w, "/data/in.txt"); }

static int write_file(worker *w) {
    FILE *file = fopen("/data/out.txt", "wb");
    if (file == NULL) return failure("cannot open the file");
    size_t written = fwrite(w->body.data, 1, w->body.size, file);
    if (fclose(file) != 0 || written != w->body.size) return failure("cannot write the file");
    return answer_file(w, "/data/out.txt");
}

static int echo(worker *w) {
    const char *type = worker_header(w, "content-type");
    if (type != NULL) worker_set_header(w, "content-type", type);
    worker_write(w, w->body.data, w->body.size);
    return 0;
}

static int headers(worker *w) {
    const char *separator = "";
    for (size_t i = 0; i < w->headers.count; i++) {
        if (strcmp(w->headers.items[i].name.data, "x-in") != 0) continue;
        worker_print(w, separator);
        worker_print(w, w->headers.items[i].value.data);
        worker_add_header(w, "x-out", w->headers.items[i].value.data);
        separator = "|";
    }
    worker_add_header(w, "set-cookie", "a=1");
    worker_add_header(w, "set-cookie", "b=2; Path=/");
    return 0;
}

static int status(worker *w) {
    const char *code = or_empty(worker_query(w, "code"));
    worker_status(w, atoi(code));
    worker_set_header(w, "x-code", code);
    worker_print(w, code);
    return 0;
}

static int fetch(worker *w) {
    worker_pair sent[] = {{{"x-sent", 6}, {"yes", 3}}, {{"x-sent", 6}, {"again", 5}}};
    worker_outgoing request = {
        .method = w->method.data, .url = worker_query(w, "url"), .headers = {sent, 2}, .body = w->body};
    worker_reply reply;
    if (!worker_fetch(w, &request, &reply)) {
        worker_status(w, 502);
        worker_print(w, worker_error_name(reply.error));
        worker_print(w, ": ");
        worker_print(w, reply.message);
        return 0;
    }
    worker_status(w, reply.status);
    for (size_t i = 0; i < reply.headers.count; i++) {
        if (strcmp(reply.headers.items[i].name.data, "x-from") == 0)
            worker_add_header(w, "x-from", reply.headers.items[i].value.data);
    }
    worker_write(w, reply.body.data, reply.body.size);
    return 0;
}

static int fail(worker *w) {
    (void)w;
    return failure("features: failed on purpose");
}

static int write_log(worker *w) {
    worker_log("features: a líne in the log");
    worker_print(w, "logged");
    return 0;
}

static int global(worker *w) {
    char number[24];
    snprintf(number, sizeof number, "%d", ++calls);
    worker_print(w, number);
    return 0;
}

static int random_bytes(worker *w) {
    unsigned char bytes[16];
    if (getentropy(bytes, sizeof bytes) != 0) return failure("no random numbers");
    for (size_t i = 0; i < sizeof bytes; i++) {
        char hex[3];
        snprintf(hex, sizeof hex, "%02x", bytes[i]);
        worker_print(w, hex);
    }
    return 0;
}

static int loop(worker *w) {
    (void)w;
    for (volatile int going = 1; going;) continue;
    return 0;
}

static int eat(worker *w) {
    (void)w;
    for (;;) {
        /* `volatile`, or else the compiler leaves the memory out. */
        volatile char *eaten = malloc(1 << 20);
        if (eaten == NULL) return failure("no memory is left");
        eaten[0] = 1;
    }
}

static int deeper(volatile int *depth) {
    volatile int here = *depth + 1;
    return deeper(&here) + here;
}

static int recurse(worker *w) {
    volatile int depth = 0;
    worker_status(w, deeper(&depth));
    return 0;
}

static const struct {
    const char *name;
    worker_handler *answer;
} features[] = {
    {"hello", hello},   {"vars", vars},       {"count", count},   {"forget", forget}, {"keep", keep},     {"read", read_file},
    {"write", write_file}, {"echo", echo},    {"headers", headers}, {"status", status}, {"fetch", fetch}, {"fail", fail},
    {"log", write_log}, {"global", global},   {"random", random_bytes}, {"loop", loop}, {"eat", eat},     {"recurse", recurse},
};

static int answer(worker *w) {
    const char *name = or_empty(worker_param(w, "feature"));
    worker_set_header(w, "content-type", "text/plain; charset=utf-8");
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        if (strcmp(features[i].name, name) == 0) return features[i].answer(w);
    }
    worker_status(w, 404);
    worker_print(w, "no such feature: ");
    worker_print(w, name);
    return 0;
}

int main(void) { return worker_serve(answer); }
