/* What the library's files share. */
#ifndef WORKER_INTERNAL_H
#define WORKER_INTERNAL_H

#include "../worker.h"

/* ---- memory that is freed all at once (arena.c) ---- */

typedef struct arena {
    struct arena_block *blocks;
} arena;

/* Zeroed memory, aligned for anything; NULL if there is none. */
void *arena_take(arena *a, size_t count, size_t size);
void arena_free(arena *a);

/* A list of pairs that grows. */
typedef struct pair_list {
    worker_pair *items;
    size_t count, space;
} pair_list;

bool pairs_add(arena *a, pair_list *list, worker_text name, worker_text value);
/* A copy, followed by NUL; `data` is NULL if there is no memory. */
worker_text text_copy(arena *a, const void *data, size_t size);
bool text_equal(worker_text text, const char *other, size_t size);
bool name_equal(worker_text name, worker_text other);

/* ---- text (json.c) ---- */

bool utf8_valid(const char *data, size_t size);
/* Decodes in place; false if it is not base64 with padding. */
bool base64_decode(char *data, size_t *size);

/* Reads JSON strictly (RFC 8259). Texts are decoded where they lie: the input must be writable and outlive them. */
typedef struct json_reader {
    char *at, *end;
    const char *error;
} json_reader;

bool json_is(json_reader *r, char c);     /* takes c if it comes next */
bool json_expect(json_reader *r, char c); /* takes c, or fails */
bool json_text(json_reader *r, worker_text *text);
bool json_flag(json_reader *r, bool *flag);
bool json_skip(json_reader *r);
bool json_end(json_reader *r);

/* Writes JSON through a buffer. */
typedef bool json_sink(void *to, const char *data, size_t size);
typedef struct json_writer {
    json_sink *sink;
    void *to;
    size_t used;
    bool failed;
    char buffer[8192];
} json_writer;

void json_put(json_writer *w, const char *data, size_t size);
void json_raw(json_writer *w, const char *text);
void json_put_text(json_writer *w, worker_text text); /* must be UTF-8 */
void json_put_base64(json_writer *w, worker_text bytes);
bool json_flush(json_writer *w);

/* ---- the protocol (protocol.c) ---- */

struct worker_state {
    arena memory;
    const char *failure;
    int status;
    pair_list headers;
    char *body;
    size_t body_size, body_space;
    pair_list kv;
    bool kv_changed;
};

/* `input` is written to. */
bool protocol_read(worker *w, char *input, size_t size);
bool protocol_write(const worker *w, json_writer *to);

/* Answers the request `input`: 0 if the answer is complete. */
int worker_run(worker_handler *handler, char *input, size_t size, json_sink *sink, void *to);

#endif
