/* Judges batches of packets, one call of lb_process_batch each, for callgrind to count by:
 *
 *     worst IMAGE BATCHES V4_FLOWS V6_FLOWS AFFINITY FRAGMENTS CORES
 *
 * Each is one call of lb_steer before, as the first of so many cores would make it.
 * BATCHES holds numbers of four bytes, lowest first: how many packets, and of each its length and bytes; and again. Prints a line a batch:
 * the word for its last packet's verdict, and how many ports were looked at for it. */
#include <inttypes.h>
#include <lb_core.h>
#include <stdio.h>
#include <stdlib.h>

#define OK(call)                                                                                                    \
    do {                                                                                                            \
        lb_status status_ = (call);                                                                                 \
        if (status_ != LB_STATUS_OK) {                                                                              \
            fprintf(stderr, "%s: %s\n", #call, lb_status_text(status_));                                            \
            exit(1);                                                                                                \
        }                                                                                                           \
    } while (0)

static void *memory_of(lb_layout layout)
{
    void *memory = aligned_alloc(layout.alignment, layout.size);
    if (memory == NULL)
        exit(2);
    return memory;
}

static uint8_t *contents(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes;
    long end;
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (end = ftell(file)) < 0)
        exit(2);
    rewind(file);
    *length = (size_t)end;
    bytes = malloc(*length + 1);
    if (bytes == NULL || fread(bytes, 1, *length, file) != *length)
        exit(2);
    fclose(file);
    return bytes;
}

static uint32_t number(uint8_t **at)
{
    const uint8_t *b = *at;
    *at += 4;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

int main(int argc, char **argv)
{
    lb_layout layout = {.struct_size = sizeof layout};
    lb_sizes sizes = {.struct_size = sizeof sizes, .services = 64, .backends = 1024};
    lb_config config = {.struct_size = sizeof config};
    lb_rules *rules = NULL;
    lb_balancer *balancer = NULL;
    uint8_t *image, *at, *end;
    size_t length;
    uint64_t before = 0, tries = 0;
    if (argc != 8)
        return 2;
    sizes.v4_flows = (uint32_t)atoi(argv[3]);
    sizes.v6_flows = (uint32_t)atoi(argv[4]);
    sizes.affinity = (uint32_t)atoi(argv[5]);
    sizes.fragments = (uint32_t)atoi(argv[6]);
    image = contents(argv[1], &length);
    OK(lb_rules_layout(NULL, &layout));
    OK(lb_rules_load(memory_of(layout), layout.size, image, length, &rules, NULL));
    OK(lb_config_linux(&config));
    config.cores = (uint16_t)atoi(argv[7]);
    OK(lb_balancer_layout(&sizes, &layout));
    OK(lb_balancer_init(memory_of(layout), layout.size, &config, &sizes, rules, &balancer));
    at = contents(argv[2], &length);
    for (end = at + length; at < end; before = tries) {
        uint32_t count = number(&at), i;
        lb_packet *packets = calloc(count, sizeof *packets);
        uint16_t *cores = calloc(count, sizeof *cores);
        if (packets == NULL || cores == NULL)
            return 2;
        for (i = 0; i < count; i++) {
            packets[i].struct_size = sizeof packets[i];
            packets[i].length = number(&at);
            packets[i].data = at;
            at += packets[i].length;
        }
        OK(lb_steer(balancer, packets, count, cores));
        OK(lb_process_batch(balancer, LB_SECOND, packets, count));
        OK(lb_counter_by_name(balancer, "port-tries", &tries));
        printf("%s %" PRIu64 "\n", lb_code_label((lb_code)packets[count - 1].verdict.code), tries - before);
        free(packets);
        free(cores);
    }
    return 0;
}
