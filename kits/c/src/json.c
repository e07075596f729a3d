#include <string.h>

#include "internal.h"

/* Values within values that are skipped. */
#define MAX_DEPTH 64

/* The length of the character at `s`, or 0 if it is not UTF-8 (RFC 3629: shortest form, no surrogates, up to U+10FFFF). */
static size_t utf8_length(const unsigned char *s, size_t left) {
    if (s[0] < 0x80) return 1;
    size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || length > left) return 0;
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
    }
    bool too_long = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool no_character = (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f);
    return too_long || no_character ? 0 : length;
}

bool utf8_valid(const char *data, size_t size) {
    for (size_t i = 0; i < size;) {
        size_t length = utf8_length((const unsigned char *)data + i, size - i);
        if (length == 0) return false;
        i += length;
    }
    return true;
}

static bool fail(json_reader *r, const char *error) {
    if (r->error == NULL) r->error = error;
    return false;
}

static void skip_space(json_reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r')) r->at++;
}

bool json_is(json_reader *r, char c) {
    skip_space(r);
    if (r->error != NULL || r->at == r->end || *r->at != c) return false;
    r->at++;
    return true;
}

bool json_expect(json_reader *r, char c) { return json_is(r, c) || fail(r, "unexpected character or end"); }

bool json_end(json_reader *r) {
    skip_space(r);
    return r->error == NULL && (r->at == r->end || fail(r, "more than one value"));
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The four digits after \u, or -1. */
static long read_hex(json_reader *r) {
    if (r->end - r->at < 4) return -1;
    long code = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(*r->at++);
        if (digit < 0) return -1;
        code = code << 4 | digit;
    }
    return code;
}

/* What follows \u, as UTF-8: never longer than the escape was. */
static bool read_unicode(json_reader *r, char **out) {
    long code = read_hex(r);
    if (code >= 0xd800 && code <= 0xdbff) {
        if (r->end - r->at < 2 || r->at[0] != '\\' || r->at[1] != 'u') return fail(r, "half of a surrogate pair");
        r->at += 2;
        long low = read_hex(r);
        if (low < 0xdc00 || low > 0xdfff) return fail(r, "half of a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code < 0 || (code >= 0xdc00 && code <= 0xdfff)) {
        return fail(r, "bad \\u escape");
    }
    char *to = *out;
    if (code < 0x80) {
        *to++ = (char)code;
    } else {
        if (code < 0x800) {
            *to++ = (char)(0xc0 | code >> 6);
        } else {
            if (code < 0x10000) {
                *to++ = (char)(0xe0 | code >> 12);
            } else {
                *to++ = (char)(0xf0 | code >> 18);
                *to++ = (char)(0x80 | (code >> 12 & 0x3f));
            }
            *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        }
        *to++ = (char)(0x80 | (code & 0x3f));
    }
    *out = to;
    return true;
}

static bool read_escape(json_reader *r, char **out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (r->at == r->end) return fail(r, "a text without an end");
    char c = *r->at++;
    if (c == 'u') return read_unicode(r, out);
    const char *found = c == '\0' ? NULL : strchr(from, c);
    if (found == NULL) return fail(r, "unknown escape");
    *(*out)++ = to[found - from];
    return true;
}

bool json_text(json_reader *r, worker_text *text) {
    if (!json_is(r, '"')) return fail(r, "a text was expected");
    char *start = r->at, *out = r->at;
    for (;;) {
        if (r->at == r->end) return fail(r, "a text without an end");
        unsigned char c = (unsigned char)*r->at;
        if (c == '"') break;
        if (c < 0x20) return fail(r, "a control character in a text");
        if (c == '\\') {
            r->at++;
            if (!read_escape(r, &out)) return false;
            continue;
        }
        size_t length = utf8_length((unsigned char *)r->at, (size_t)(r->end - r->at));
        if (length == 0) return fail(r, "not UTF-8");
        while (length-- > 0) *out++ = *r->at++;
    }
    r->at++;
    *out = '\0';
    *text = (worker_text){start, (size_t)(out - start)};
    return true;
}

static bool literal(json_reader *r, const char *word) {
    size_t size = strlen(word);
    skip_space(r);
    if ((size_t)(r->end - r->at) < size || memcmp(r->at, word, size) != 0) return false;
    r->at += size;
    return true;
}

bool json_flag(json_reader *r, bool *flag) {
    *flag = literal(r, "true");
    return *flag || literal(r, "false") || fail(r, "true or false was expected");
}

static size_t digits(json_reader *r) {
    char *start = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return (size_t)(r->at - start);
}

static bool next_is(json_reader *r, const char *any) {
    if (r->at == r->end || *r->at == '\0' || strchr(any, *r->at) == NULL) return false;
    r->at++;
    return true;
}

static bool skip_number(json_reader *r) {
    next_is(r, "-");
    char *start = r->at;
    size_t whole = digits(r);
    if (whole == 0 || (whole > 1 && *start == '0')) return fail(r, "a value was expected");
    if (next_is(r, ".") && digits(r) == 0) return fail(r, "bad number");
    if (next_is(r, "eE")) {
        next_is(r, "+-");
        if (digits(r) == 0) return fail(r, "bad number");
    }
    return true;
}

static bool skip(json_reader *r, int depth) {
    worker_text text;
    skip_space(r);
    if (r->error != NULL) return false;
    if (depth > MAX_DEPTH) return fail(r, "too many values within values");
    if (r->at < r->end && *r->at == '"') return json_text(r, &text);
    if (json_is(r, '[')) {
        if (json_is(r, ']')) return true;
        do {
            if (!skip(r, depth + 1)) return false;
        } while (json_is(r, ','));
        return json_expect(r, ']');
    }
    if (json_is(r, '{')) {
        if (json_is(r, '}')) return true;
        do {
            if (!json_text(r, &text) || !json_expect(r, ':') || !skip(r, depth + 1)) return false;
        } while (json_is(r, ','));
        return json_expect(r, '}');
    }
    return literal(r, "true") || literal(r, "false") || literal(r, "null") || skip_number(r);
}

bool json_skip(json_reader *r) { return skip(r, 0); }

bool json_flush(json_writer *w) {
    if (!w->failed && w->used != 0) w->failed = !w->sink(w->to, w->buffer, w->used);
    w->used = 0;
    return !w->failed;
}

void json_put(json_writer *w, const char *data, size_t size) {
    while (size > 0 && !w->failed) {
        size_t part = sizeof w->buffer - w->used;
        if (part > size) part = size;
        memcpy(w->buffer + w->used, data, part);
        w->used += part;
        data += part;
        size -= part;
        if (w->used == sizeof w->buffer) json_flush(w);
    }
}

void json_raw(json_writer *w, const char *text) { json_put(w, text, strlen(text)); }

void json_put_text(json_writer *w, worker_text text) {
    static const char hex[] = "0123456789abcdef";
    json_raw(w, "\"");
    size_t plain = 0;
    for (size_t i = 0; i < text.size; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        if (i > plain) json_put(w, text.data + plain, i - plain);
        plain = i + 1;
        char escape[6] = {'\\', (char)c};
        if (c < 0x20) memcpy(escape, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
        json_put(w, escape, c < 0x20 ? 6 : 2);
    }
    if (text.size > plain) json_put(w, text.data + plain, text.size - plain);
    json_raw(w, "\"");
}
