#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

const char *worker_error_name(worker_error error) {
    static const char *const names[] = {"invalid-request", "invalid-request-body", "invalid-response-body", "not-allowed",
                                        "internal-error",  "timeout",              "redirect-loop"};
    return (unsigned)error < sizeof names / sizeof *names ? names[error] : "unknown-error";
}

static bool refuse(worker_reply *reply, worker_error error, const char *message) {
    reply->error = error;
    reply->message = message;
    return false;
}

#ifdef __wasm32__

/* The interface is defined for 32-bit addresses: a pair is four words, as a `worker_pair` is. */
_Static_assert(sizeof(worker_pair) == 16 && offsetof(worker_pair, value) == 8, "a pair is four words");

__attribute__((import_module("http"), import_name("send-http-request"))) extern void send_http_request(
    int32_t has_body, const char *body, size_t body_size, const worker_pair *headers, size_t header_count, int32_t method,
    const worker_pair *params, size_t param_count, const char *uri, size_t uri_size, void *result);

/* The server puts its answer where this says. A NUL byte follows, so that texts are C strings. */
__attribute__((export_name("canonical_abi_realloc"))) void *canonical_abi_realloc(void *old, size_t old_size, size_t align,
                                                                                  size_t size) {
    (void)old_size;
    if (size == 0) return (void *)align;
    void *memory = size == SIZE_MAX ? NULL : realloc(old, size + 1);
    if (memory == NULL) {
        worker_log("worker: out of memory for the answer of an outgoing request");
        abort();
    }
    ((char *)memory)[size] = '\0';
    return memory;
}

typedef struct result_area {
    uint8_t tag;
    union {
        struct {
            uint8_t has_body;
            worker_text body;
            worker_pairs headers;
            uint16_t status;
        } ok;
        struct {
            uint8_t error;
            worker_text message;
        } err;
    };
} result_area;
_Static_assert(offsetof(result_area, ok.body) == 8 && offsetof(result_area, ok.status) == 24, "as the server writes it");
_Static_assert(offsetof(result_area, err.error) == 4 && offsetof(result_area, err.message) == 8, "as the server writes it");

static worker_text or_empty(worker_text text) { return text.size == 0 ? (worker_text){"", 0} : text; }

bool worker_fetch(worker *w, const worker_outgoing *request, worker_reply *reply) {
    static const char *const methods[] = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"};
    (void)w;
    *reply = (worker_reply){.body = {"", 0}};
    int32_t method = 0;
    if (request->method != NULL) {
        while (strcmp(methods[method], request->method) != 0) {
            if (++method == sizeof methods / sizeof *methods) return refuse(reply, WORKER_INVALID_REQUEST, "unknown method");
        }
    }
    if (request->url == NULL) return refuse(reply, WORKER_INVALID_REQUEST, "no URL");
    result_area result = {0};
    send_http_request(request->body.size != 0, request->body.data, request->body.size, request->headers.items,
                      request->headers.count, method, NULL, 0, request->url, strlen(request->url), &result);
    if (result.tag != 0) return refuse(reply, (worker_error)result.err.error, or_empty(result.err.message).data);
    reply->status = result.ok.status;
    if (result.ok.has_body) reply->body = or_empty(result.ok.body);
    reply->headers = result.ok.headers;
    worker_pair *headers = (worker_pair *)result.ok.headers.items;
    for (size_t i = 0; i < result.ok.headers.count; i++) {
        headers[i].name = or_empty(headers[i].name);
        headers[i].value = or_empty(headers[i].value);
    }
    return true;
}

#else

bool worker_fetch(worker *w, const worker_outgoing *request, worker_reply *reply) {
    (void)w, (void)request;
    *reply = (worker_reply){.body = {"", 0}};
    return refuse(reply, WORKER_INTERNAL_ERROR, "requests can be sent by WebAssembly workers only");
}

#endif
