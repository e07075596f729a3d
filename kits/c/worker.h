/* Answers HTTP requests in WebAssembly: a worker of wws in C (or in what calls C). README.md has an example.
 *
 * A program answers one request and ends; all memory that these functions hand out lasts until then and is not to be freed.
 * Whoever is given something wrong (a header with a line break, a key that is not UTF-8) or finds no memory fails the request:
 * the function returns false, the caller gets status 500, and the log says why. So results need no checks to be safe. */
#ifndef WORKER_H
#define WORKER_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes. What comes from this library is followed by a NUL byte that is not counted. */
typedef struct worker_text {
    const char *data;
    size_t size;
} worker_text;

typedef struct worker_pair {
    worker_text name, value;
} worker_pair;

typedef struct worker_pairs {
    const worker_pair *items;
    size_t count;
} worker_pairs;

/* The request, to be read only. */
typedef struct worker {
    worker_text method; /* "GET" */
    worker_text url;    /* the full URL, query included */
    worker_text body;
    worker_pairs headers; /* each header line in order; names in lower case */
    worker_pairs params;  /* of the route: [id].wasm has "id" */
    struct worker_state *state;
} worker;

/* Answers a request: 0, or anything else for a failure (status 500), whose cause it has logged. */
typedef int worker_handler(worker *w);

/* Reads the request, calls the handler, writes the answer. Returns what main is to return. */
int worker_serve(worker_handler *handler);

/* ---- the request ---- */

/* The first value of a header (upper and lower case are the same), or NULL. */
const char *worker_header(const worker *w, const char *name);

/* A parameter of the route, or NULL. */
const char *worker_param(const worker *w, const char *name);

/* The first value of a name in the URL's query, decoded, or NULL. */
const char *worker_query(worker *w, const char *name);

/* ---- the answer ---- */

/* 200 to 599; 200 if it is never called. */
bool worker_status(worker *w, int status);

/* Adds a header line. */
bool worker_add_header(worker *w, const char *name, const char *value);

/* Replaces all lines of a header by one. */
bool worker_set_header(worker *w, const char *name, const char *value);

/* Appends to the body. */
bool worker_write(worker *w, const void *data, size_t size);
bool worker_print(worker *w, const char *text);

/* Writes a line to the server's log. */
void worker_log(const char *text);

/* Fails the request: status 500 for the caller, the cause for the log. The first cause counts. Returns false. */
bool worker_fail(worker *w, const char *cause);

/* ---- the key/value store: [data.kv] in the worker's TOML ---- */

/* The value of a key, or NULL. */
const worker_text *worker_kv_get(const worker *w, const char *key);

/* Changes are stored when the handler has returned 0. Values are UTF-8. */
bool worker_kv_set(worker *w, const char *key, const void *value, size_t size);
bool worker_kv_delete(worker *w, const char *key);

/* ---- outgoing HTTP: [features.http_requests] in the worker's TOML ---- */

typedef enum worker_error {
    WORKER_INVALID_REQUEST,
    WORKER_INVALID_REQUEST_BODY,
    WORKER_INVALID_RESPONSE_BODY,
    WORKER_NOT_ALLOWED, /* the TOML does not allow the host, the method, plain http, or the address */
    WORKER_INTERNAL_ERROR,
    WORKER_TIMEOUT,
    WORKER_REDIRECT_LOOP
} worker_error;

typedef struct worker_outgoing {
    const char *method; /* NULL: GET; else POST, PUT, PATCH, DELETE, OPTIONS or HEAD */
    const char *url;
    worker_pairs headers;
    worker_text body;
} worker_outgoing;

typedef struct worker_reply {
    int status;
    worker_pairs headers;
    worker_text body;
    worker_error error; /* where worker_fetch returned false, with a message */
    const char *message;
} worker_reply;

/* Sends a request and waits for the reply; redirects are followed. False: it was not sent, or there was no reply. That does not
 * fail the request that is answered. */
bool worker_fetch(worker *w, const worker_outgoing *request, worker_reply *reply);

/* As "not-allowed". */
const char *worker_error_name(worker_error error);

/* The first value of a name (upper and lower case are the same), or NULL. */
const char *worker_find(worker_pairs pairs, const char *name);

#ifdef __cplusplus
}
#endif

#endif
