#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct arena_block {
    struct arena_block *next;
    max_align_t data[];
};

void *arena_take(arena *a, size_t count, size_t size) {
    if (size != 0 && count > (SIZE_MAX / 2 - sizeof(struct arena_block)) / size) return NULL;
    struct arena_block *block = calloc(1, sizeof *block + count * size);
    if (block == NULL) return NULL;
    block->next = a->blocks;
    a->blocks = block;
    return block->data;
}

void arena_free(arena *a) {
    while (a->blocks != NULL) {
        struct arena_block *next = a->blocks->next;
        free(a->blocks);
        a->blocks = next;
    }
}

bool pairs_add(arena *a, pair_list *list, worker_text name, worker_text value) {
    if (list->count == list->space) {
        size_t space = list->space == 0 ? 16 : list->space * 2;
        worker_pair *items = arena_take(a, space, sizeof *items);
        if (items == NULL) return false;
        if (list->count != 0) memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->space = space;
    }
    list->items[list->count++] = (worker_pair){name, value};
    return true;
}

worker_text text_copy(arena *a, const void *data, size_t size) {
    char *copy = size == SIZE_MAX ? NULL : arena_take(a, size + 1, 1);
    if (copy != NULL && size != 0) memcpy(copy, data, size);
    return (worker_text){copy, size};
}

bool text_equal(worker_text text, const char *other, size_t size) {
    return text.size == size && (size == 0 || memcmp(text.data, other, size) == 0);
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

bool name_equal(worker_text name, worker_text other) {
    if (name.size != other.size) return false;
    for (size_t i = 0; i < name.size; i++) {
        if (lower(name.data[i]) != lower(other.data[i])) return false;
    }
    return true;
}

const char *worker_find(worker_pairs pairs, const char *name) {
    worker_text wanted = {name, strlen(name)};
    for (size_t i = 0; i < pairs.count; i++) {
        if (name_equal(pairs.items[i].name, wanted)) return pairs.items[i].value.data;
    }
    return NULL;
}
