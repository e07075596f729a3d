#include "internal.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void json_put_base64(json_writer *w, worker_text bytes) {
    const unsigned char *data = (const unsigned char *)bytes.data;
    json_raw(w, "\"");
    for (size_t i = 0; i < bytes.size; i += 3) {
        size_t left = bytes.size - i;
        unsigned long group = (unsigned long)data[i] << 16;
        if (left > 1) group |= (unsigned long)data[i + 1] << 8;
        if (left > 2) group |= data[i + 2];
        char text[4] = {alphabet[group >> 18], alphabet[group >> 12 & 63], '=', '='};
        if (left > 1) text[2] = alphabet[group >> 6 & 63];
        if (left > 2) text[3] = alphabet[group & 63];
        json_put(w, text, 4);
    }
    json_raw(w, "\"");
}

static int value_of(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool base64_decode(char *data, size_t *size) {
    if (*size % 4 != 0) return false;
    char *out = data;
    for (size_t i = 0; i < *size; i += 4) {
        size_t padding = 0;
        if (i + 4 == *size) padding = data[i + 3] != '=' ? 0 : data[i + 2] != '=' ? 1 : 2;
        unsigned long group = 0;
        for (size_t j = 0; j < 4 - padding; j++) {
            int value = value_of(data[i + j]);
            if (value < 0) return false;
            group |= (unsigned long)value << (18 - 6 * j);
        }
        /* Bits that stand for nothing must be zero. */
        if ((padding == 1 && (group & 0xff) != 0) || (padding == 2 && (group & 0xffff) != 0)) return false;
        *out++ = (char)(group >> 16);
        if (padding < 2) *out++ = (char)(group >> 8);
        if (padding < 1) *out++ = (char)group;
    }
    *size = (size_t)(out - data);
    /* There is room: base64 is longer than what it stands for, and a text has a NUL after it. */
    *out = '\0';
    return true;
}
