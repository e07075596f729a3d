/* Tests of the library on this machine; run by test/run.sh under the address and undefined-behaviour sanitizers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/internal.h"

static int failures;

#define CHECK(condition) \
    do { \
        if (!(condition)) failures++, fprintf(stderr, "test.c:%d: not so: %s\n", __LINE__, #condition); \
    } while (0)

typedef struct printed {
    char text[65536];
    size_t size;
} printed;

static bool print(void *to, const char *data, size_t size) {
    printed *p = to;
    if (size >= sizeof p->text - p->size) return false;
    memcpy(p->text + p->size, data, size);
    p->size += size;
    p->text[p->size] = '\0';
    return true;
}

/* Answers a request whose text lies in a block of exactly its size, so that the sanitizer sees every byte too far. */
static int run(worker_handler *handler, const char *input, size_t size, printed *out) {
    char *exact = malloc(size == 0 ? 1 : size);
    if (exact == NULL) abort();
    memcpy(exact, input, size);
    out->size = 0;
    out->text[0] = '\0';
    int result = worker_run(handler, exact, size, print, out);
    free(exact);
    return result;
}

static int nothing(worker *w) {
    (void)w;
    return 0;
}

static bool is(const char *got, const char *wanted) { return got != NULL && strcmp(got, wanted) == 0; }

static int sees_the_request(worker *w) {
    CHECK(is(w->method.data, "POST"));
    CHECK(is(w->body.data, "h\xc3\xa9\n\"\\/\b\f\r\t\xf0\x9f\xa6\x80"));
    CHECK(is(worker_header(w, "X-A"), "1"));
    CHECK(worker_header(w, "x-b") == NULL);
    CHECK(is(worker_param(w, "id"), "7"));
    CHECK(worker_param(w, "ID") == NULL);
    CHECK(is(worker_query(w, "q"), "1 2&\xc3\xa9%zz%"));
    CHECK(is(worker_query(w, "a b"), ""));
    CHECK(is(worker_query(w, "flag"), ""));
    CHECK(worker_query(w, "x") == NULL);
    const worker_text *value = worker_kv_get(w, "zero");
    CHECK(value != NULL && value->size == 3 && memcmp(value->data, "a\0b", 4) == 0);
    return 0;
}

static int sees_lines_and_bytes(worker *w) {
    CHECK(w->headers.count == 2 && is(w->headers.items[0].value.data, "1") && is(w->headers.items[1].value.data, "2"));
    CHECK(w->body.size == 4 && memcmp(w->body.data, "\xff\0\x01\x02", 5) == 0);
    return 0;
}

static int answers(worker *w) {
    worker_status(w, 201);
    worker_add_header(w, "x-b", "0");
    worker_set_header(w, "X-B", "1");
    worker_add_header(w, "x-b", "2");
    worker_set_header(w, "x-c", "\"");
    worker_write(w, "a\"\\\n\0", 5);
    worker_print(w, "\xc3\xa9");
    return 0;
}

static int answers_bytes(worker *w) {
    const char bytes[] = "\xff\xfe\xfd\xfc\xfb\xfa";
    worker_write(w, bytes, strlen(worker_param(w, "id")));
    worker_write(w, bytes, 1);
    return 0;
}

static int changes_the_store(worker *w) {
    const worker_text *old = worker_kv_get(w, "a");
    worker_kv_set(w, "a", "3", 1);
    worker_kv_delete(w, "zero");
    worker_kv_delete(w, "unknown");
    worker_kv_set(w, "c", "", 0);
    CHECK(is(old->data, "1") && is(worker_kv_get(w, "a")->data, "3") && worker_kv_get(w, "zero") == NULL);
    return 0;
}

static int empties_the_store(worker *w) {
    worker_kv_delete(w, "a");
    worker_kv_delete(w, "zero");
    return 0;
}

static int fails(worker *w) {
    worker_print(w, "lost");
    return 3;
}

static int bad_status(worker *w) { return worker_status(w, 99), 0; }
static int bad_name(worker *w) { return worker_add_header(w, "a b", "c"), 0; }
static int no_name(worker *w) { return worker_add_header(w, "", "c"), 0; }
static int line_break(worker *w) { return worker_add_header(w, "a", "c\r\nd: e"), 0; }
static int header_of_bytes(worker *w) { return worker_add_header(w, "a", "\xff"), 0; }
static int store_of_bytes(worker *w) { return worker_kv_set(w, "a", "\xed\xa0\x80", 3), 0; }
static int too_large(worker *w) { return worker_write(w, "", (size_t)-1), 0; }

static int cannot_fetch(worker *w) {
    worker_outgoing request = {.url = "http://a.test/"};
    worker_reply reply;
    CHECK(!worker_fetch(w, &request, &reply) && reply.error == WORKER_INTERNAL_ERROR && reply.message != NULL);
    CHECK(is(worker_error_name(WORKER_NOT_ALLOWED), "not-allowed") && is(worker_error_name((worker_error)99), "unknown-error"));
    return 0;
}

#define FULL \
    "{\"url\":\"http://a.test/x?a+b=&flag&q=1%202%26%c3%A9%zz%#x=1\",\"method\":\"POST\",\"headers\":{\"x-a\":\"1\"},\"more\":" \
    "[-1.5e+3,{\"a\":[true,false,null,{}]},[],\"x\"]," \
    "\"body\":\"h\\u00e9\\n\\\"\\\\\\/\\b\\f\\r\\t\\ud83e\\udd80\",\"kv\":{\"a\":\"1\",\"zero\":\"a\\u0000b\"},\"params\":{\"id\":\"7\"}}"

static void check_answers(void) {
    static const struct {
        worker_handler *handler;
        const char *input, *answer;
    } tests[] = {
        {sees_the_request, FULL, "{\"data\":\"\",\"status\":200,\"headers\":{}}\n"},
        {sees_lines_and_bytes,
         " {\"method\":\"\",\"url\":\"\",\"body_base64\":true,\"body\":\"/wABAg==\",\"headers\":{\"a\":\"1, 2\"},"
         "\"header_list\":[[\"a\",\"1\"],[\"a\",\"2\"]]}\r\n",
         "{\"data\":\"\",\"status\":200,\"headers\":{}}\n"},
        {answers, FULL,
         "{\"data\":\"a\\\"\\\\\\u000a\\u0000\xc3\xa9\",\"status\":201,\"headers\":{\"X-B\":[\"1\",\"2\"],\"x-c\":\"\\\"\"}}\n"},
        {answers_bytes, FULL, "{\"data\":\"//8=\",\"base64\":true,\"status\":200,\"headers\":{}}\n"},
        {changes_the_store, FULL, "{\"data\":\"\",\"status\":200,\"headers\":{},\"kv\":{\"a\":\"3\",\"c\":\"\"}}\n"},
        {empties_the_store, FULL, "{\"data\":\"\",\"status\":200,\"headers\":{},\"kv\":{}}\n"},
        {cannot_fetch, FULL, "{\"data\":\"\",\"status\":200,\"headers\":{}}\n"},
    };
    printed out;
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        int result = run(tests[i].handler, tests[i].input, strlen(tests[i].input), &out);
        if (result == 0 && strcmp(out.text, tests[i].answer) == 0) continue;
        failures++;
        fprintf(stderr, "test %zu: result %d\n got: %s\nwant: %s\n", i, result, out.text, tests[i].answer);
    }
    worker_handler *failing[] = {fails, bad_status, bad_name, no_name, line_break, header_of_bytes, store_of_bytes, too_large};
    for (size_t i = 0; i < sizeof failing / sizeof *failing; i++) {
        CHECK(run(failing[i], FULL, strlen(FULL), &out) == 1);
        CHECK(out.size == 0);
    }
}

static void check_bad_input(void) {
    static const char *const bad[] = {
        "", "{", "[]", "{}", "{\"url\":\"\"}", "{\"url\":1,\"method\":\"\"}", "{\"url\":\"\",\"method\":\"\"",
        "{\"url\":\"\",\"method\":\"\"}x", "{\"url\":\"\",\"method\":\"\",}", "{\"url\":\"\" \"method\":\"\"}",
        "{\"url\":\"\\x\",\"method\":\"\"}", "{\"url\":\"\\ud800\",\"method\":\"\"}", "{\"url\":\"\\ud800\\u0041\",\"method\":\"\"}",
        "{\"url\":\"\\udc00\",\"method\":\"\"}", "{\"url\":\"\\u12", "{\"url\":\"\\", "{\"url\":\"\xff\",\"method\":\"\"}",
        "{\"url\":\"\xc0\x80\",\"method\":\"\"}", "{\"url\":\"\xed\xa0\x80\",\"method\":\"\"}", "{\"url\":\"\xf4\x90\x80\x80\",\"method\":\"\"}",
        "{\"url\":\"\xe2\x82", "{\"url\":\"\n\",\"method\":\"\"}", "{\"a\":01,\"url\":\"\",\"method\":\"\"}",
        "{\"a\":1.,\"url\":\"\",\"method\":\"\"}", "{\"a\":-,\"url\":\"\",\"method\":\"\"}", "{\"a\":1e,\"url\":\"\",\"method\":\"\"}",
        "{\"a\":tru,\"url\":\"\",\"method\":\"\"}", "{\"kv\":{\"a\":1},\"url\":\"\",\"method\":\"\"}",
        "{\"header_list\":[[\"a\"]],\"url\":\"\",\"method\":\"\"}", "{\"body\":\"abc\",\"body_base64\":true,\"url\":\"\",\"method\":\"\"}",
        "{\"body\":\"ab=c\",\"body_base64\":true,\"url\":\"\",\"method\":\"\"}", "{\"body\":\"/x==\",\"body_base64\":true,\"url\":\"\",\"method\":\"\"}",
        "{\"body\":\"\",\"body_base64\":1,\"url\":\"\",\"method\":\"\"}",
    };
    printed out;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (run(nothing, bad[i], strlen(bad[i]), &out) == 1 && out.size == 0) continue;
        failures++;
        fprintf(stderr, "was understood: %s\n", bad[i]);
    }
    char deep[4096] = "{\"a\":";
    memset(deep + 5, '[', sizeof deep - 6);
    CHECK(run(nothing, deep, sizeof deep - 1, &out) == 1);
    /* Every beginning of a request is an error. */
    for (size_t size = 0; size < sizeof FULL - 1; size++) CHECK(run(nothing, FULL, size, &out) == 1);
}

/* Everything that a handler can do with what it read. */
static int uses_everything(worker *w) {
    for (size_t i = 0; i < w->headers.count; i++) worker_add_header(w, w->headers.items[i].name.data, w->headers.items[i].value.data);
    for (size_t i = 0; i < w->params.count; i++) worker_kv_set(w, w->params.items[i].name.data, w->body.data, w->body.size);
    worker_query(w, "q");
    worker_kv_delete(w, "a");
    worker_write(w, w->body.data, w->body.size);
    return 0;
}

static unsigned long next_random(unsigned long *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Requests with random changes: no error of memory, and an answer that is UTF-8 or none. */
static void check_damaged(unsigned long rounds) {
    static const char pieces[][8] = {"\"", "\\", "{", "}", "[", "]", ",", ":", "\\u", "d83e", "\xf0\x9f", "=", "%2", "\n", "null", "1e"};
    unsigned long random = 88172645463325252UL;
    printed out;
    for (unsigned long round = 0; round < rounds; round++) {
        char text[1024];
        size_t size = sizeof FULL - 1;
        memcpy(text, FULL, size);
        for (unsigned long change = next_random(&random) % 6; change > 0; change--) {
            size_t at = next_random(&random) % size;
            const char *piece = pieces[next_random(&random) % (sizeof pieces / sizeof *pieces)];
            switch (next_random(&random) % 3) {
            case 0: text[at] = (char)next_random(&random); break;
            case 1: memmove(text + at, text + at + 1, --size - at); break;
            default:
                memmove(text + at + strlen(piece), text + at, size - at);
                memcpy(text + at, piece, strlen(piece));
                size += strlen(piece);
            }
        }
        if (run(uses_everything, text, size, &out) == 0) CHECK(out.size > 0 && utf8_valid(out.text, out.size));
    }
}

int main(int count, char **arguments) {
    check_answers();
    check_bad_input();
    check_damaged(count > 1 ? strtoul(arguments[1], NULL, 10) : 20000);
    printf("kits/c: %s\n", failures == 0 ? "ok" : "FAILED");
    return failures != 0;
}
