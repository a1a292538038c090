/* The peer of P1 and P2: DPDK's rte_hash, bulk look-up of 32 keys, crc hash, nothing else.
 *
 *   rte_hash CONNECTIONS
 *
 * Two keys a connection, of 16 bytes each, looked up in random order. For every line read it measures one turn
 * and writes nanoseconds a key, so that its turns can lie between another program's. */
#include <rte_eal.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_prefetch.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BULK = 32, ROUND = 256, ROUNDS = 2000 };

struct key {
    uint32_t words[4];
};

static uint64_t state = 1;

/* SplitMix64. */
static uint64_t next(void)
{
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    char *eal[] = {argv[0], "--no-huge", "--no-pci", "-m", "1024", "--no-telemetry", "--no-shconf", "--log-level=1", "--lcores=0@1", 0};
    if (argc != 2 || rte_eal_init(9, eal) < 0) {
        fprintf(stderr, "usage: rte_hash CONNECTIONS\n");
        return 2;
    }
    uint32_t keys = 2 * (uint32_t)atoi(argv[1]);
    struct rte_hash_parameters parameters = {
        .name = "flows",
        .entries = keys + keys / 4,
        .key_len = sizeof(struct key),
        .hash_func = rte_hash_crc,
        .socket_id = 0,
    };
    struct rte_hash *table = rte_hash_create(&parameters);
    struct key *order = malloc(keys * sizeof *order);
    if (!table || !order) {
        fprintf(stderr, "no memory\n");
        return 1;
    }
    for (uint32_t i = 0; i < keys; i++) {
        uint64_t random = next();
        order[i] = (struct key){{random, 0x0a600000 | i % 1000, random >> 32, 6}};
        if (rte_hash_add_key_data(table, &order[i], (void *)(uintptr_t)i) < 0) {
            fprintf(stderr, "no room\n");
            return 1;
        }
    }
    for (uint32_t i = keys - 1; i > 0; i--) {
        uint32_t j = next() % (i + 1);
        struct key key = order[i];
        order[i] = order[j], order[j] = key;
    }
    static double samples[ROUNDS];
    static struct key round[ROUND];
    uint32_t at = 0;
    char line[16];
    while (fgets(line, sizeof line, stdin)) {
        for (int r = 0; r < ROUNDS; r++) {
            for (int i = 0; i < ROUND; i++) {
                round[i] = order[at];
                at = at + 1 < keys ? at + 1 : 0;
            }
            double start = now();
            for (int i = 0; i < ROUND; i += BULK) {
                const void *pointers[BULK];
                void *data[BULK];
                uint64_t hits;
                for (int k = 0; k < BULK; k++)
                    pointers[k] = &round[i + k];
                if (rte_hash_lookup_bulk_data(table, pointers, BULK, &hits, data) != BULK) {
                    fprintf(stderr, "a key was not found\n");
                    return 1;
                }
            }
            samples[r] = (now() - start) / ROUND;
        }
        qsort(samples, ROUNDS, sizeof *samples, by_value);
        printf("%.3f\n", samples[ROUNDS / 2]);
        fflush(stdout);
    }
    return 0;
}
