#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

static const char no_memory[] = "out of memory";

static bool write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        data += written;
        size -= (size_t)written;
    }
    return true;
}

static void log_line(const char *before, const char *text) {
    write_all(2, before, strlen(before));
    write_all(2, text, strlen(text));
    write_all(2, "\n", 1);
}

void worker_log(const char *text) { log_line("", text); }

bool worker_fail(worker *w, const char *cause) {
    if (w->state->failure == NULL) w->state->failure = cause;
    return false;
}

/* ---- the request ---- */

const char *worker_header(const worker *w, const char *name) { return worker_find(w->headers, name); }

const char *worker_param(const worker *w, const char *name) {
    for (size_t i = 0; i < w->params.count; i++) {
        if (text_equal(w->params.items[i].name, name, strlen(name))) return w->params.items[i].value.data;
    }
    return NULL;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Decodes application/x-www-form-urlencoded in place; what is no escape stays as it is. */
static worker_text form_decode(char *data, size_t size) {
    size_t out = 0;
    for (size_t i = 0; i < size; i++) {
        char c = data[i] == '+' ? ' ' : data[i];
        if (c == '%' && size - i > 2 && hex_value(data[i + 1]) >= 0 && hex_value(data[i + 2]) >= 0) {
            c = (char)(hex_value(data[i + 1]) << 4 | hex_value(data[i + 2]));
            i += 2;
        }
        data[out++] = c;
    }
    data[out] = '\0';
    return (worker_text){data, out};
}

const char *worker_query(worker *w, const char *name) {
    const char *at = memchr(w->url.data, '?', w->url.size), *end = w->url.data + w->url.size;
    if (at == NULL) return NULL;
    const char *fragment = memchr(at, '#', (size_t)(end - at));
    if (fragment != NULL) end = fragment;
    while (at < end) {
        const char *start = at + 1, *stop = memchr(start, '&', (size_t)(end - start));
        if (stop == NULL) stop = end;
        worker_text copy = text_copy(&w->state->memory, start, (size_t)(stop - start));
        if (copy.data == NULL) {
            worker_fail(w, no_memory);
            return NULL;
        }
        char *pair = (char *)copy.data, *equals = memchr(pair, '=', copy.size);
        size_t name_size = equals == NULL ? copy.size : (size_t)(equals - pair);
        /* The value first: the name's NUL takes the place of the equals sign. */
        char *value = equals == NULL ? pair + copy.size : equals + 1;
        worker_text decoded = form_decode(value, copy.size - (size_t)(value - pair));
        if (text_equal(form_decode(pair, name_size), name, strlen(name))) return decoded.data;
        at = stop;
    }
    return NULL;
}

/* ---- the answer ---- */

bool worker_status(worker *w, int status) {
    if (status < 200 || status > 599) return worker_fail(w, "the status is not from 200 to 599");
    w->state->status = status;
    return true;
}

static bool header_is_valid(const char *name, const char *value) {
    if (*name == '\0') return false;
    for (; *name != '\0'; name++) {
        unsigned char c = (unsigned char)*name;
        if (c <= 0x20 || c >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", c) != NULL) return false;
    }
    if (!utf8_valid(value, strlen(value))) return false;
    for (; *value != '\0'; value++) {
        unsigned char c = (unsigned char)*value;
        if ((c < 0x20 && c != '\t') || c == 0x7f) return false;
    }
    return true;
}

bool worker_add_header(worker *w, const char *name, const char *value) {
    arena *a = &w->state->memory;
    if (!header_is_valid(name, value)) return worker_fail(w, "a header that the answer cannot have: a bad name, a control character, or not UTF-8");
    worker_text n = text_copy(a, name, strlen(name)), v = text_copy(a, value, strlen(value));
    if (n.data == NULL || v.data == NULL || !pairs_add(a, &w->state->headers, n, v)) return worker_fail(w, no_memory);
    return true;
}

bool worker_set_header(worker *w, const char *name, const char *value) {
    pair_list *headers = &w->state->headers;
    worker_text wanted = {name, strlen(name)};
    size_t kept = 0;
    for (size_t i = 0; i < headers->count; i++) {
        if (!name_equal(headers->items[i].name, wanted)) headers->items[kept++] = headers->items[i];
    }
    headers->count = kept;
    return worker_add_header(w, name, value);
}

bool worker_write(worker *w, const void *data, size_t size) {
    struct worker_state *state = w->state;
    if (size > SIZE_MAX / 4 - state->body_size) return worker_fail(w, no_memory);
    size_t needed = state->body_size + size;
    if (needed > state->body_space) {
        size_t space = needed < 1024 ? 1024 : needed > state->body_space * 2 ? needed : state->body_space * 2;
        char *body = realloc(state->body, space);
        if (body == NULL) return worker_fail(w, no_memory);
        state->body = body;
        state->body_space = space;
    }
    if (size != 0) memcpy(state->body + state->body_size, data, size);
    state->body_size = needed;
    return true;
}

bool worker_print(worker *w, const char *text) { return worker_write(w, text, strlen(text)); }

/* ---- the key/value store ---- */

static worker_pair *kv_find(const worker *w, const char *key) {
    pair_list *kv = &w->state->kv;
    for (size_t i = 0; i < kv->count; i++) {
        if (text_equal(kv->items[i].name, key, strlen(key))) return &kv->items[i];
    }
    return NULL;
}

const worker_text *worker_kv_get(const worker *w, const char *key) {
    const worker_pair *found = kv_find(w, key);
    if (found == NULL) return NULL;
    /* A copy of the entry, since a deletion moves the others. */
    worker_text *value = arena_take(&w->state->memory, 1, sizeof *value);
    if (value != NULL) *value = found->value;
    else if (w->state->failure == NULL) w->state->failure = no_memory;
    return value;
}

bool worker_kv_set(worker *w, const char *key, const void *value, size_t size) {
    arena *a = &w->state->memory;
    if (!utf8_valid(value, size) || !utf8_valid(key, strlen(key))) return worker_fail(w, "a key or a value of the store is not UTF-8");
    worker_text copy = text_copy(a, value, size);
    if (copy.data == NULL) return worker_fail(w, no_memory);
    worker_pair *found = kv_find(w, key);
    if (found != NULL) {
        found->value = copy;
    } else {
        worker_text name = text_copy(a, key, strlen(key));
        if (name.data == NULL || !pairs_add(a, &w->state->kv, name, copy)) return worker_fail(w, no_memory);
    }
    w->state->kv_changed = true;
    return true;
}

bool worker_kv_delete(worker *w, const char *key) {
    worker_pair *found = kv_find(w, key);
    if (found != NULL) {
        *found = w->state->kv.items[--w->state->kv.count];
        w->state->kv_changed = true;
    }
    return true;
}

/* ---- one request ---- */

int worker_run(worker_handler *handler, char *input, size_t size, json_sink *sink, void *to) {
    struct worker_state state = {.status = 200};
    worker w = {.state = &state};
    bool understood = protocol_read(&w, input, size);
    int result = understood ? handler(&w) : 1;
    if (state.failure == NULL && result == 0) {
        json_writer writer = {.sink = sink, .to = to};
        if (!protocol_write(&w, &writer)) worker_fail(&w, "the answer cannot be written");
    }
    if (state.failure != NULL) {
        log_line(understood ? "worker: " : "worker: cannot read the request: ", state.failure);
        result = 1;
    }
    free(state.body);
    arena_free(&state.memory);
    return result == 0 ? 0 : 1;
}

/* All of standard input; NULL if it cannot be read or held. */
static char *read_input(size_t *size) {
    size_t space = 16384;
    char *input = malloc(space);
    *size = 0;
    while (input != NULL) {
        ssize_t got = read(0, input + *size, space - *size);
        if (got == 0) return input;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 || space > SIZE_MAX / 4) break;
        *size += (size_t)got;
        if (*size < space) continue;
        space *= 2;
        char *more = realloc(input, space);
        if (more == NULL) break;
        input = more;
    }
    free(input);
    return NULL;
}

static bool to_stdout(void *to, const char *data, size_t size) {
    (void)to;
    return write_all(1, data, size);
}

int worker_serve(worker_handler *handler) {
    size_t size;
    char *input = read_input(&size);
    if (input == NULL) {
        log_line("worker: ", "the request cannot be read");
        return 1;
    }
    int result = worker_run(handler, input, size, to_stdout, NULL);
    free(input);
    return result;
}
