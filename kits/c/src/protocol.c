#include <string.h>

#include "internal.h"

static const char no_memory[] = "out of memory";

static bool failed(worker *w, const json_reader *r) {
    const char *error = r->error != NULL ? r->error : no_memory;
    return worker_fail(w, error);
}

/* {"name": "value", ...} */
static bool read_map(json_reader *r, arena *a, pair_list *list) {
    worker_text name, value;
    if (!json_expect(r, '{')) return false;
    if (json_is(r, '}')) return true;
    do {
        if (!json_text(r, &name) || !json_expect(r, ':') || !json_text(r, &value)) return false;
        if (!pairs_add(a, list, name, value)) return false;
    } while (json_is(r, ','));
    return json_expect(r, '}');
}

/* [["name", "value"], ...] */
static bool read_lines(json_reader *r, arena *a, pair_list *list) {
    worker_text name, value;
    if (!json_expect(r, '[')) return false;
    if (json_is(r, ']')) return true;
    do {
        if (!json_expect(r, '[') || !json_text(r, &name) || !json_expect(r, ',') || !json_text(r, &value)) return false;
        if (!json_expect(r, ']') || !pairs_add(a, list, name, value)) return false;
    } while (json_is(r, ','));
    return json_expect(r, ']');
}

typedef struct fields {
    pair_list headers, lines, params;
    bool has_lines, base64;
} fields;

static bool read_field(worker *w, json_reader *r, worker_text name, fields *f) {
    arena *a = &w->state->memory;
#define IS(text) text_equal(name, text, sizeof text - 1)
    if (IS("url")) return json_text(r, &w->url);
    if (IS("method")) return json_text(r, &w->method);
    if (IS("body")) return json_text(r, &w->body);
    if (IS("body_base64")) return json_flag(r, &f->base64);
    if (IS("headers")) return read_map(r, a, &f->headers);
    if (IS("params")) return read_map(r, a, &f->params);
    if (IS("kv")) return read_map(r, a, &w->state->kv);
    if (IS("header_list")) {
        f->has_lines = true;
        return read_lines(r, a, &f->lines);
    }
#undef IS
    return json_skip(r);
}

bool protocol_read(worker *w, char *input, size_t size) {
    json_reader reader = {input, input + size, NULL}, *r = &reader;
    fields f = {0};
    worker_text name;
    w->body = (worker_text){"", 0};
    if (!json_expect(r, '{')) return failed(w, r);
    if (!json_is(r, '}')) {
        do {
            if (!json_text(r, &name) || !json_expect(r, ':') || !read_field(w, r, name, &f)) return failed(w, r);
        } while (json_is(r, ','));
        if (!json_expect(r, '}')) return failed(w, r);
    }
    if (!json_end(r)) return failed(w, r);
    if (w->url.data == NULL || w->method.data == NULL) return worker_fail(w, "the request has no url or no method");
    if (f.base64 && w->body.size != 0) {
        /* The text lies in `input`, which may be written to. */
        if (!base64_decode((char *)w->body.data, &w->body.size)) return worker_fail(w, "the request's body is not base64");
    }
    const pair_list *headers = f.has_lines ? &f.lines : &f.headers;
    w->headers = (worker_pairs){headers->items, headers->count};
    w->params = (worker_pairs){f.params.items, f.params.count};
    return true;
}

static bool came_before(const pair_list *list, size_t index) {
    for (size_t i = 0; i < index; i++) {
        if (name_equal(list->items[i].name, list->items[index].name)) return true;
    }
    return false;
}

/* Each name once, with its value or an array of them. */
static void write_headers(const pair_list *list, json_writer *to) {
    const char *separator = "";
    json_raw(to, ",\"headers\":{");
    for (size_t i = 0; i < list->count; i++) {
        if (came_before(list, i)) continue;
        json_raw(to, separator);
        json_put_text(to, list->items[i].name);
        size_t values = 0;
        for (size_t j = i; j < list->count; j++) values += name_equal(list->items[i].name, list->items[j].name);
        separator = values == 1 ? ":" : ":[";
        for (size_t j = i; j < list->count; j++) {
            if (!name_equal(list->items[i].name, list->items[j].name)) continue;
            json_raw(to, separator);
            json_put_text(to, list->items[j].value);
            separator = ",";
        }
        if (values != 1) json_raw(to, "]");
    }
    json_raw(to, "}");
}

bool protocol_write(const worker *w, json_writer *to) {
    const struct worker_state *state = w->state;
    worker_text body = {state->body, state->body_size};
    json_raw(to, "{\"data\":");
    if (utf8_valid(body.data, body.size)) {
        json_put_text(to, body);
    } else {
        json_put_base64(to, body);
        json_raw(to, ",\"base64\":true");
    }
    char status[] = {(char)('0' + state->status / 100), (char)('0' + state->status / 10 % 10), (char)('0' + state->status % 10), 0};
    json_raw(to, ",\"status\":");
    json_raw(to, status);
    write_headers(&state->headers, to);
    if (state->kv_changed) {
        const char *separator = "";
        json_raw(to, ",\"kv\":{");
        for (size_t i = 0; i < state->kv.count; i++) {
            json_raw(to, separator);
            json_put_text(to, state->kv.items[i].name);
            json_raw(to, ":");
            json_put_text(to, state->kv.items[i].value);
            separator = ",";
        }
        json_raw(to, "}");
    }
    json_raw(to, "}\n");
    return json_flush(to);
}
