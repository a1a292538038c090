/* Loads xdp_nat.bpf.o, which lies beside it, and measures it by BPF_PROG_TEST_RUN.
 *
 *   xdp_nat CONNECTIONS known|new
 *
 * For every line read it measures one turn and writes nanoseconds a packet: those of the program less those of one that
 * does nothing. Packets are of CONNECTIONS known ones both ways in random order, or each begins one while as many are
 * there. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "xdp_nat.h"

enum { REPEAT = 4000, ROUNDS = 15, BATCH = 1024 };

static void fail(const char *what)
{
    fprintf(stderr, "xdp_nat: %s\n", what);
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nanoseconds a packet, by the kernel's clock: it stops while others have the core, and leaves out what setting up a test takes. */
static double test(struct bpf_program *program)
{
    static unsigned char frame[64] = {[12] = 8, [14] = 0x45, [17] = 40, [22] = 64, 6, [46] = 0x50, 0x10};
    LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame, .data_size_in = sizeof frame, .repeat = REPEAT);
    if (bpf_prog_test_run_opts(bpf_program__fd(program), &opts))
        fail("BPF_PROG_TEST_RUN failed");
    if (opts.retval != 3)
        fail("a packet was not sent on");
    return opts.duration;
}

static void quiet(void) {}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: xdp_nat CONNECTIONS known|new\n");
        return 2;
    }
    struct settings settings = {.connections = (__u32)atoi(argv[1]), .fresh = !strcmp(argv[2], "new")};
    libbpf_set_print((libbpf_print_fn_t)quiet);
    char path[4096];
    snprintf(path, sizeof path, "%s.bpf.o", argv[0]);
    struct bpf_object *object = bpf_object__open_file(path, 0);
    if (!object)
        fail("no xdp_nat.bpf.o beside the program");
    struct bpf_map *flows = bpf_object__find_map_by_name(object, "flows");
    bpf_map__set_max_entries(flows, settings.connections * 2 + settings.connections / 2 + 4096);
    struct bpf_map *constants = bpf_object__find_map_by_name(object, ".rodata");
    if (bpf_map__set_initial_value(constants, &settings, sizeof settings) || bpf_object__load(object))
        fail("the kernel does not take the program: not root, or no BPF?");

    int services = bpf_map__fd(bpf_object__find_map_by_name(object, "services"));
    for (__u32 number = 0; number < SERVICES; number++) {
        struct tuple dials = dialled(number);
        struct tuple vip = {.destination = dials.destination, .destination_port = dials.destination_port, .protocol = 6};
        struct service service = {.port = NETWORK16(8080)};
        for (__u32 i = 0; i < ENDPOINTS; i++)
            service.endpoints[i] = endpoint(number, i);
        if (bpf_map_update_elem(services, &vip, &service, BPF_ANY))
            fail("no room for services");
    }
    static struct tuple keys[BATCH];
    static struct flow values[BATCH];
    for (__u32 number = 0, filled = 0; number < settings.connections; number++) {
        struct tuple original = dialled(number);
        struct tuple reply = answer(original, endpoint(number % SERVICES, number), NETWORK16(8080));
        keys[filled] = original;
        values[filled++] = (struct flow){reply.destination, reply.source, reply.destination_port, reply.source_port, 0, 0};
        keys[filled] = reply;
        values[filled++] = (struct flow){original.destination, original.source, original.destination_port, original.source_port, 0, 0};
        if (filled == BATCH || number + 1 == settings.connections) {
            __u32 count = filled;
            if (bpf_map_update_batch(bpf_map__fd(flows), keys, values, &count, 0) || count != filled)
                fail("no room for flows");
            filled = 0;
        }
    }
    int bss = bpf_map__fd(bpf_object__find_map_by_name(object, ".bss"));
    struct run *run = mmap(0, sizeof *run, PROT_READ | PROT_WRITE, MAP_SHARED, bss, 0);
    if (run == MAP_FAILED)
        fail("the program's memory can't be shared");
    run->next = settings.connections;
    struct bpf_program *nat = bpf_object__find_program_by_name(object, "nat");
    struct bpf_program *nothing = bpf_object__find_program_by_name(object, "nothing");
    char line[16];
    while (fgets(line, sizeof line, stdin)) {
        static double rounds[2][ROUNDS];
        __u64 hits = run->hits, begun = run->begun;
        for (int r = 0; r < ROUNDS; r++)
            rounds[0][r] = test(nat), rounds[1][r] = test(nothing);
        __u64 wanted = settings.fresh ? run->begun - begun : run->hits - hits;
        /* An LRU map forgets some before it is full. */
        if (wanted * 100 < (__u64)REPEAT * ROUNDS * 97)
            fail("packets were not what was to be measured");
        for (int i = 0; i < 2; i++)
            qsort(rounds[i], ROUNDS, sizeof *rounds[i], by_value);
        printf("%.3f\n", rounds[0][ROUNDS / 2] - rounds[1][ROUNDS / 2]);
        fflush(stdout);
    }
    return 0;
}
