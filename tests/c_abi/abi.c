/* Every function of lb_core.h, from C11 and from C++17. First argument: a file of steps that main.rs writes; what becomes
 * of them is printed, a line a packet, for main.rs to compare. Then the refusals: what is wrong with an argument
 * must be told, and nothing else may happen. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <lb_core.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(expected, call)                                                                                       \
    do {                                                                                                            \
        lb_status status_ = (call);                                                                                 \
        if (status_ != (expected)) {                                                                                \
            fprintf(stderr, "%s:%d: %s: %d (%s), not " #expected "\n", __FILE__, __LINE__, #call, (int)status_,      \
                    lb_status_text(status_));                                                                       \
            exit(1);                                                                                                \
        }                                                                                                           \
    } while (0)
#define OK(call) CHECK(LB_STATUS_OK, call)
#define HOLDS(what)                                                                                                 \
    do {                                                                                                            \
        if (!(what)) {                                                                                              \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);                                       \
            exit(1);                                                                                                \
        }                                                                                                           \
    } while (0)

enum { BURST = 40, FRAME = 2048, FLOWS = 64 };

static void *memory_of(lb_layout layout)
{
    void *memory = NULL;
    if (posix_memalign(&memory, layout.alignment, layout.size) != 0)
        exit(2);
    memset(memory, 0xa5, layout.size); /* what was in it does not matter */
    return memory;
}

static lb_layout no_layout(void)
{
    lb_layout layout;
    memset(&layout, 0, sizeof layout);
    layout.struct_size = sizeof layout;
    return layout;
}

static lb_sizes sizes_of(uint32_t flows)
{
    lb_sizes sizes;
    memset(&sizes, 0, sizeof sizes);
    sizes.struct_size = sizeof sizes;
    sizes.v4_flows = sizes.v6_flows = flows;
    sizes.services = 32;
    sizes.backends = 64;
    sizes.fragments = 16;
    return sizes;
}

static lb_room room_of(uint32_t services)
{
    lb_room room;
    room.struct_size = sizeof room;
    room.services = services;
    room.vips = 128;
    room.segments = 1 << 17;
    return room;
}

static lb_config config_of(void)
{
    lb_config config;
    config.struct_size = sizeof config;
    OK(lb_config_linux(&config));
    HOLDS(config.replies_per_second == 1000 && config.timeouts.tcp_established == 86400 * LB_SECOND);
    memcpy(config.hash_key, "a key for tests.", 16);
    config.seed = 7;
    return config;
}

static lb_rules *rules_with_room(uint32_t services)
{
    lb_layout layout = no_layout();
    lb_room room = room_of(services);
    lb_rules *rules = NULL;
    OK(lb_rules_layout(&room, &layout));
    OK(lb_rules_with_room(memory_of(layout), layout.size, &room, &rules));
    return rules;
}

static lb_rules *rules_in_place(const uint8_t *image, size_t length)
{
    lb_layout layout = no_layout();
    lb_rules *rules = NULL;
    OK(lb_rules_layout(NULL, &layout));
    OK(lb_rules_load(memory_of(layout), layout.size, image, length, &rules, NULL));
    return rules;
}

static lb_balancer *balancer_with(lb_rules *rules)
{
    lb_layout layout = no_layout();
    lb_sizes sizes = sizes_of(FLOWS);
    lb_config config = config_of();
    lb_balancer *balancer = NULL;
    OK(lb_balancer_layout(&sizes, &layout));
    OK(lb_balancer_init(memory_of(layout), layout.size, &config, &sizes, rules, &balancer));
    return balancer;
}

static void print_bytes(const uint8_t *bytes, size_t length)
{
    size_t i;
    for (i = 0; i < length; i++)
        printf("%02x", bytes[i]);
}

static void process(lb_balancer *balancer, uint64_t now, lb_packet *packets, size_t count)
{
    size_t i;
    OK(lb_process_batch(balancer, now, packets, count));
    for (i = 0; i < count; i++) {
        const lb_verdict *verdict = &packets[i].verdict;
        printf("%s action %d flow %" PRIu32 " direction %d datagram %" PRIx64 " releases %" PRIx64 " ",
               lb_code_label(verdict->code), verdict->action, verdict->flow, verdict->direction, verdict->datagram,
               verdict->has_releases ? verdict->releases : 0);
        print_bytes(packets[i].data, packets[i].length);
        printf("\n");
        if (verdict->action == LB_ACTION_REJECT) {
            uint8_t reply[FRAME];
            size_t written = 0;
            printf("reply ");
            OK(lb_write_reply(balancer, now, &packets[i], reply, sizeof reply, &written));
            print_bytes(reply, written);
            printf("\n");
        }
    }
}

static void print_flow(const lb_flow *flow)
{
    printf("flow %" PRIu32 " ", flow->id);
    print_bytes(flow->original.source, 16);
    printf(":%d ", flow->original.source_port);
    print_bytes(flow->reply.source, 16);
    printf(":%d protocol %d state %d masqueraded %d deadline %" PRIu64 " packets %" PRIu32 "\n",
           flow->reply.source_port, flow->reply.protocol, flow->state, flow->masqueraded, flow->deadline,
           flow->packets[0]);
}

/* Saves flows, three at a time. */
static size_t save(const lb_balancer *balancer, lb_flow *flows)
{
    size_t i, saved = 0, count = 0;
    uint32_t position = 0;
    for (i = 0; i < 2 * FLOWS; i++)
        flows[i].struct_size = sizeof flows[i];
    do {
        OK(lb_flows(balancer, &position, flows + saved, 3, &count));
        saved += count;
    } while (count > 0);
    return saved;
}

/* Takes a file of steps: 'I' image, 'D' delta (u32 length, bytes), 'F' frame (u8 origin, u32 length, bytes),
 * 'P' process (u64 time), 'R' restart. Numbers are little-endian. */
static uint64_t number(FILE *file, int bytes)
{
    uint64_t value = 0;
    int i;
    for (i = 0; i < bytes; i++)
        value |= (uint64_t)fgetc(file) << 8 * i;
    return value;
}

static size_t bytes_of(FILE *file, uint8_t *bytes, size_t room)
{
    size_t length = number(file, 4);
    HOLDS(length <= room);
    HOLDS(fread(bytes, 1, length, file) == length);
    return length;
}

static uint8_t image[1 << 16], delta[1 << 16], frames[BURST][FRAME];

static size_t steps(const char *path)
{
    FILE *file = fopen(path, "rb");
    lb_balancer *balancer = NULL;
    lb_packet packets[BURST];
    size_t count = 0, image_length = 0, length;
    int step;
    HOLDS(file != NULL);
    memset(packets, 0, sizeof packets);
    while ((step = fgetc(file)) != EOF) {
        switch (step) {
        case 'I':
            image_length = bytes_of(file, image, sizeof image);
            balancer = balancer_with(rules_with_room(32));
            OK(lb_apply(balancer, image, image_length, NULL));
            break;
        case 'D':
            length = bytes_of(file, delta, sizeof delta);
            OK(lb_apply(balancer, delta, length, NULL));
            break;
        case 'F':
            packets[count].struct_size = sizeof packets[count];
            packets[count].meta.origin = (lb_origin)fgetc(file);
            packets[count].data = frames[count];
            packets[count].length = bytes_of(file, frames[count], FRAME);
            count++;
            break;
        case 'P':
            process(balancer, number(file, 8), packets, count);
            count = 0;
            break;
        default: { /* a balancer with the image read in place, and the flows of the former one */
            lb_flow flows[2 * FLOWS], found;
            size_t i, saved = save(balancer, flows);
            lb_balancer *next = balancer_with(rules_in_place(image, image_length));
            uint64_t deadline = 0;
            found.struct_size = sizeof found;
            for (i = 0; i < saved; i++) {
                uint32_t id = 0;
                print_flow(&flows[i]);
                OK(lb_restore(next, &flows[i], &id));
                OK(lb_flow_by_id(next, id, &found));
                HOLDS(memcmp(&found.original, &flows[i].original, sizeof found.original) == 0);
                HOLDS(found.state == flows[i].state && found.packets[1] == flows[i].packets[1]);
                CHECK(LB_STATUS_TAKEN, lb_restore(next, &flows[i], NULL));
            }
            OK(lb_next_deadline(next, &deadline));
            HOLDS(deadline > 0);
            balancer = next;
        }
        }
    }
    fclose(file);
    for (step = 0; lb_counter_name((uint32_t)step) != NULL; step++) {
        uint64_t by_number = 1, by_name = 2;
        OK(lb_counter(balancer, (uint32_t)step, &by_number));
        OK(lb_counter_by_name(balancer, lb_counter_name((uint32_t)step), &by_name));
        HOLDS(by_number == by_name);
        printf("%s %" PRIu64 "\n", lb_counter_name((uint32_t)step), by_number);
    }
    for (step = 0; step < 256; step++) {
        uint64_t count_by_code = 0;
        if (lb_code_label((lb_code)step) == NULL) {
            HOLDS(lb_code_explanation((lb_code)step) == NULL);
            CHECK(LB_STATUS_NOTHING, lb_verdict_count(balancer, (lb_code)step, &count_by_code));
            continue;
        }
        OK(lb_verdict_count(balancer, (lb_code)step, &count_by_code));
        printf("%s %" PRIu64 "\n", lb_code_label((lb_code)step), count_by_code);
    }
    {
        size_t forgotten = 0;
        uint64_t deadline = 77;
        OK(lb_expire(balancer, 365 * 86400 * LB_SECOND, 1000, &forgotten));
        printf("forgotten %d\n", (int)forgotten);
        CHECK(LB_STATUS_NOTHING, lb_next_deadline(balancer, &deadline));
        HOLDS(deadline == 77);
    }
    return image_length;
}

static void *odd(void *pointer)
{
    return (char *)pointer + 1;
}

static void refuse_memory(void)
{
    static uint64_t space[1 << 14];
    lb_layout layout = no_layout();
    lb_sizes sizes = sizes_of(FLOWS);
    lb_room room = room_of(4);
    lb_config config = config_of();
    lb_rules *rules = rules_with_room(4), *none = NULL;
    lb_balancer *balancer = NULL;
    void *memory;

    CHECK(LB_STATUS_NULL, lb_config_linux(NULL));
    CHECK(LB_STATUS_NULL, lb_balancer_layout(NULL, &layout));
    CHECK(LB_STATUS_NULL, lb_balancer_layout(&sizes, NULL));
    CHECK(LB_STATUS_ALIGNMENT, lb_balancer_layout((const lb_sizes *)odd(space), &layout));
    CHECK(LB_STATUS_NULL, lb_rules_layout(NULL, NULL));
    sizes.v4_flows = (1u << 28) + 1;
    CHECK(LB_STATUS_TOO_MANY_FLOWS, lb_balancer_layout(&sizes, &layout));
    sizes.v4_flows = FLOWS;
    HOLDS(layout.size == 0); /* nothing was written */

    /* Sizes of structs: of none, of a newer header, of an older one. */
    sizes.struct_size = 0;
    CHECK(LB_STATUS_STRUCT_SIZE, lb_balancer_layout(&sizes, &layout));
    sizes.struct_size = sizeof sizes + 4;
    CHECK(LB_STATUS_STRUCT_SIZE, lb_balancer_layout(&sizes, &layout));
    sizes.struct_size = sizeof sizes;
    layout.struct_size = sizeof layout - 1;
    CHECK(LB_STATUS_STRUCT_SIZE, lb_balancer_layout(&sizes, &layout));
    layout.struct_size = sizeof layout;
    OK(lb_balancer_layout(&sizes, &layout));
    HOLDS(layout.alignment == 64 && layout.size % 64 == 0 && layout.size > 0);

    memory = memory_of(layout);
    CHECK(LB_STATUS_NULL, lb_balancer_init(NULL, layout.size, &config, &sizes, rules, &balancer));
    CHECK(LB_STATUS_ALIGNMENT, lb_balancer_init(odd(memory), layout.size, &config, &sizes, rules, &balancer));
    CHECK(LB_STATUS_MEMORY, lb_balancer_init(memory, layout.size - 1, &config, &sizes, rules, &balancer));
    CHECK(LB_STATUS_LENGTH, lb_balancer_init(memory, SIZE_MAX, &config, &sizes, rules, &balancer));
    CHECK(LB_STATUS_NULL, lb_balancer_init(memory, layout.size, NULL, &sizes, rules, &balancer));
    CHECK(LB_STATUS_NULL, lb_balancer_init(memory, layout.size, &config, NULL, rules, &balancer));
    CHECK(LB_STATUS_NULL, lb_balancer_init(memory, layout.size, &config, &sizes, NULL, &balancer));
    CHECK(LB_STATUS_NULL, lb_balancer_init(memory, layout.size, &config, &sizes, rules, NULL));
    HOLDS(balancer == NULL);
    /* A config may end before its timeouts. */
    config.struct_size = (uint32_t)offsetof(lb_config, timeouts);
    OK(lb_balancer_init(memory, layout.size, &config, &sizes, rules, &balancer));
    /* Rules in force are the balancer's. */
    CHECK(LB_STATUS_IN_USE, lb_balancer_init(memory_of(layout), layout.size, &config, &sizes, rules, &balancer));
    CHECK(LB_STATUS_IN_USE, lb_rules_apply(rules, image, 10, NULL));
    CHECK(LB_STATUS_IN_USE, lb_swap_rules(balancer, rules, NULL));
    none = rules_with_room(4);
    OK(lb_swap_rules(balancer, none, &none));
    HOLDS(none == rules);
    OK(lb_swap_rules(balancer, rules, NULL));
    CHECK(LB_STATUS_NULL, lb_swap_rules(balancer, NULL, &none));
    CHECK(LB_STATUS_NULL, lb_swap_rules(NULL, rules, NULL));

    room.services = UINT32_MAX;
    room.vips = UINT32_MAX;
    (void)lb_rules_layout(&room, &layout); /* a 64-bit machine has the addresses */
    CHECK(LB_STATUS_MEMORY, lb_rules_with_room(memory, 64, &room, &none));
    CHECK(LB_STATUS_NULL, lb_rules_with_room(memory, 64, &room, NULL));
    CHECK(LB_STATUS_NULL, lb_rules_with_room(memory, 64, NULL, &none));
}

static void refuse_images(size_t length)
{
    lb_rules *small = rules_with_room(1), *read_only = rules_in_place(image, length), *rules = NULL;
    lb_balancer *balancer = balancer_with(read_only);
    lb_layout layout = no_layout();
    lb_fault fault;
    void *memory;
    memset(&fault, 0, sizeof fault);
    fault.struct_size = sizeof fault;
    OK(lb_rules_layout(NULL, &layout));
    memory = memory_of(layout);

    CHECK(LB_STATUS_NULL, lb_rules_load(memory, layout.size, NULL, length, &rules, NULL));
    CHECK(LB_STATUS_NULL, lb_rules_load(memory, layout.size, image, length, NULL, NULL));
    CHECK(LB_STATUS_MEMORY, lb_rules_load(memory, layout.size - 1, image, length, &rules, NULL));
    CHECK(LB_STATUS_LENGTH, lb_rules_load(memory, layout.size, image, SIZE_MAX, &rules, NULL));
    CHECK(LB_STATUS_NOT_AN_IMAGE, lb_rules_load(memory, layout.size, frames[0], 64, &rules, NULL));
    CHECK(LB_STATUS_TRUNCATED, lb_rules_load(memory, layout.size, image, length - 1, &rules, &fault));
    HOLDS(fault.status == LB_STATUS_TRUNCATED && fault.expected == length && fault.found == length - 1);
    image[length - 1] ^= 1;
    CHECK(LB_STATUS_CORRUPT, lb_rules_load(memory, layout.size, image, length, &rules, &fault));
    image[length - 1] ^= 1;
    CHECK(LB_STATUS_NOT_FULL, lb_rules_load(memory, layout.size, delta, sizeof delta, &rules, NULL));
    HOLDS(rules == NULL);

    CHECK(LB_STATUS_READ_ONLY, lb_apply(balancer, image, length, &fault));
    CHECK(LB_STATUS_NO_ROOM_SERVICES, lb_rules_apply(small, image, length, &fault));
    HOLDS(fault.status == LB_STATUS_NO_ROOM_SERVICES && fault.expected > 1);
    fault.struct_size = 4;
    CHECK(LB_STATUS_STRUCT_SIZE, lb_apply(balancer, image, length, &fault));
    CHECK(LB_STATUS_NULL, lb_apply(NULL, image, length, NULL));
    CHECK(LB_STATUS_NULL, lb_rules_apply(NULL, image, length, NULL));

    /* Prepared elsewhere, then swapped in. */
    fault.struct_size = sizeof fault;
    rules = rules_with_room(32);
    OK(lb_rules_apply(rules, image, length, &fault));
    CHECK(LB_STATUS_WRONG_BASE, lb_rules_apply(rules, image, length, &fault));
    HOLDS(fault.expected == 0 && fault.found != 0);
    OK(lb_swap_rules(balancer, rules, &rules));
    HOLDS(rules == read_only);
}

static void refuse_packets(size_t length)
{
    lb_balancer *balancer = balancer_with(rules_in_place(image, length));
    uint8_t reply[FRAME];
    size_t written = 7, count = 7;
    uint64_t counted = 7;
    uint32_t position = 0;
    lb_flow flow;
    lb_packet packets[2];
    memset(packets, 0, sizeof packets);
    memset(&flow, 0, sizeof flow);
    packets[0].struct_size = packets[1].struct_size = sizeof packets[0];
    packets[0].data = frames[0];
    packets[0].length = 60;
    packets[1] = packets[0];
    packets[1].data = frames[1];
    packets[0].verdict.code = LB_CODE_ACCEPT;

    OK(lb_process_batch(balancer, 0, NULL, 0));
    CHECK(LB_STATUS_NULL, lb_process_batch(NULL, 0, packets, 2));
    CHECK(LB_STATUS_NULL, lb_process_batch(balancer, 0, NULL, 2));
    CHECK(LB_STATUS_ALIGNMENT, lb_process_batch(balancer, 0, (lb_packet *)odd(packets), 1));
    CHECK(LB_STATUS_LENGTH, lb_process_batch(balancer, 0, packets, SIZE_MAX));
    packets[1].struct_size--;
    CHECK(LB_STATUS_STRUCT_SIZE, lb_process_batch(balancer, 0, packets, 2));
    packets[1].struct_size++;
    packets[1].data = NULL;
    CHECK(LB_STATUS_NULL, lb_process_batch(balancer, 0, packets, 2));
    packets[1].data = frames[1];
    packets[1].length = SIZE_MAX;
    CHECK(LB_STATUS_LENGTH, lb_process_batch(balancer, 0, packets, 2));
    packets[1].length = 60;
    packets[1].meta.reserved[1] = 1;
    CHECK(LB_STATUS_VALUE, lb_process_batch(balancer, 0, packets, 2));
    packets[1].meta.reserved[1] = 0;
    memset(&packets[1].meta.origin, 9, 1);
    CHECK(LB_STATUS_VALUE, lb_process_batch(balancer, 0, packets, 2));
    HOLDS(packets[0].verdict.code == LB_CODE_ACCEPT); /* nothing happened to any */
    OK(lb_counter(balancer, 0, &counted));
    HOLDS(counted == 0);
    packets[1].data = NULL;
    packets[1].length = 0;
    memset(&packets[1].meta.origin, 0, 1);
    OK(lb_process_batch(balancer, 0, packets, 2)); /* an empty packet is a packet */
    HOLDS(packets[1].verdict.action == LB_ACTION_DROP && packets[1].verdict.code == LB_CODE_TRUNCATED);

    CHECK(LB_STATUS_VALUE, lb_write_reply(balancer, 0, &packets[1], reply, sizeof reply, &written));
    packets[0].verdict.code = LB_CODE_NO_ENDPOINTS;
    CHECK(LB_STATUS_NOTHING, lb_write_reply(balancer, 0, &packets[0], reply, 10, &written));
    CHECK(LB_STATUS_NULL, lb_write_reply(balancer, 0, &packets[0], NULL, 10, &written));
    CHECK(LB_STATUS_NULL, lb_write_reply(balancer, 0, &packets[0], reply, 10, NULL));
    CHECK(LB_STATUS_NULL, lb_write_reply(balancer, 0, NULL, reply, 10, &written));
    CHECK(LB_STATUS_NULL, lb_write_reply(NULL, 0, &packets[0], reply, 10, &written));
    HOLDS(written == 7);

    CHECK(LB_STATUS_NULL, lb_expire(NULL, 0, 1, NULL));
    OK(lb_expire(balancer, 0, 1, NULL));
    CHECK(LB_STATUS_NULL, lb_next_deadline(NULL, &counted));
    CHECK(LB_STATUS_NULL, lb_next_deadline(balancer, NULL));
    CHECK(LB_STATUS_STRUCT_SIZE, lb_flow_by_id(balancer, 0, &flow));
    CHECK(LB_STATUS_STRUCT_SIZE, lb_flows(balancer, &position, &flow, 1, &count));
    CHECK(LB_STATUS_STRUCT_SIZE, lb_restore(balancer, &flow, NULL));
    flow.struct_size = sizeof flow;
    CHECK(LB_STATUS_NOTHING, lb_flow_by_id(balancer, 12345678, &flow));
    CHECK(LB_STATUS_NULL, lb_flow_by_id(balancer, 0, NULL));
    CHECK(LB_STATUS_NULL, lb_flows(balancer, NULL, &flow, 1, &count));
    CHECK(LB_STATUS_NULL, lb_flows(balancer, &position, NULL, 1, &count));
    CHECK(LB_STATUS_NULL, lb_flows(balancer, &position, &flow, 1, NULL));
    CHECK(LB_STATUS_VALUE, lb_restore(balancer, &flow, NULL));
    flow.state = LB_STATE_TCP_ESTABLISHED;
    CHECK(LB_STATUS_MIXED, lb_restore(balancer, &flow, NULL));
    flow.direct = 2;
    CHECK(LB_STATUS_VALUE, lb_restore(balancer, &flow, NULL));
    CHECK(LB_STATUS_NULL, lb_restore(NULL, &flow, NULL));
    HOLDS(count == 7 && position == 0);

    CHECK(LB_STATUS_NULL, lb_counter(NULL, 0, &counted));
    CHECK(LB_STATUS_NULL, lb_counter(balancer, 0, NULL));
    CHECK(LB_STATUS_NOTHING, lb_counter(balancer, 1000, &counted));
    CHECK(LB_STATUS_NULL, lb_counter_by_name(balancer, NULL, &counted));
    CHECK(LB_STATUS_NOTHING, lb_counter_by_name(balancer, "no such", &counted));
    OK(lb_counter_by_name(balancer, "truncated", &counted));
    HOLDS(counted == 1);
    CHECK(LB_STATUS_NULL, lb_verdict_count(NULL, LB_CODE_PASS, &counted));
    HOLDS(lb_status_text(LB_STATUS_OK) != NULL && lb_status_text((lb_status)12345) == NULL);
}

/* Two cores: both say the same of any packet, and no client is at both. */
static void share(size_t length)
{
    enum { CLIENTS = 64 };
    static uint8_t to[CLIENTS][28], from[CLIENTS][28];
    static lb_packet packets[2 * CLIENTS];
    static uint16_t told[2][2 * CLIENTS];
    lb_sizes sizes = sizes_of(FLOWS);
    lb_config config = config_of();
    lb_layout layout = no_layout();
    lb_balancer *balancers[2] = {NULL, NULL};
    size_t core, i, at_second = 0;

    OK(lb_balancer_layout(&sizes, &layout));
    config.cores = 2;
    memcpy(config.steer_key, "shared by cores.", 16);
    for (core = 0; core < 2; core++) {
        config.core = (uint16_t)core;
        OK(lb_balancer_init(memory_of(layout), layout.size, &config, &sizes, rules_in_place(image, length),
                            &balancers[core]));
    }
    for (i = 0; i < CLIENTS; i++) {
        /* UDP from and to a pod: what goes to no Service may be a reply, and is its receiver's. */
        const uint8_t head[12] = {0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0};
        const uint8_t client[4] = {10, 244, 9, (uint8_t)i}, vip[4] = {10, 96, 0, 10}, pod[4] = {10, 244, 1, 2};
        const uint8_t ports[8] = {0x9c, 0x40, 0, 53, 0, 8, 0, 0}, back[8] = {0x14, 0xe9, 0x9c, 0x40, 0, 8, 0, 0};
        memcpy(to[i], head, 12);
        memcpy(to[i] + 12, client, 4);
        memcpy(to[i] + 16, vip, 4);
        memcpy(to[i] + 20, ports, 8);
        memcpy(from[i], head, 12);
        memcpy(from[i] + 12, pod, 4);
        memcpy(from[i] + 16, client, 4);
        memcpy(from[i] + 20, back, 8);
        packets[i].data = to[i];
        packets[CLIENTS + i].data = from[i];
    }
    for (i = 0; i < 2 * CLIENTS; i++) {
        packets[i].struct_size = sizeof packets[i];
        packets[i].meta.link = LB_LINK_IP;
        packets[i].length = 28;
    }
    for (core = 0; core < 2; core++)
        OK(lb_steer(balancers[core], packets, 2 * CLIENTS, told[core]));
    HOLDS(memcmp(told[0], told[1], sizeof told[0]) == 0);
    HOLDS(memcmp(told[0], told[0] + CLIENTS, sizeof told[0] / 2) == 0); /* a request and its reply */
    for (i = 0; i < CLIENTS; i++) {
        size_t other = 1u - told[0][i];
        at_second += told[0][i];
        HOLDS(told[0][i] < 2);
        OK(lb_process_batch(balancers[other], 0, &packets[i], 1));
        HOLDS(packets[i].verdict.action == LB_ACTION_ELSEWHERE && packets[i].verdict.core == told[0][i]);
        OK(lb_process_batch(balancers[told[0][i]], 0, &packets[i], 1));
        HOLDS(packets[i].verdict.action == LB_ACTION_FORWARD && packets[i].verdict.core == 0);
    }
    HOLDS(at_second > CLIENTS / 4 && at_second < CLIENTS * 3 / 4);
    {
        lb_flow flow;
        uint32_t position = 0;
        size_t count = 0;
        memset(&flow, 0, sizeof flow);
        flow.struct_size = sizeof flow;
        OK(lb_flows(balancers[0], &position, &flow, 1, &count));
        HOLDS(count == 1);
        CHECK(LB_STATUS_ELSEWHERE, lb_restore(balancers[1], &flow, NULL));
    }

    /* What is wrong is told before anything is written. */
    told[1][0] = 77;
    packets[1].length = 0;
    OK(lb_steer(balancers[0], NULL, 0, NULL));
    CHECK(LB_STATUS_NULL, lb_steer(NULL, packets, 2, told[1]));
    CHECK(LB_STATUS_NULL, lb_steer(balancers[0], NULL, 2, told[1]));
    CHECK(LB_STATUS_NULL, lb_steer(balancers[0], packets, 2, NULL));
    CHECK(LB_STATUS_ALIGNMENT, lb_steer(balancers[0], packets, 2, (uint16_t *)odd(told[1])));
    CHECK(LB_STATUS_LENGTH, lb_steer(balancers[0], packets, SIZE_MAX, told[1]));
    memset(&packets[1].meta.link, 9, 1);
    CHECK(LB_STATUS_VALUE, lb_steer(balancers[0], packets, 2, told[1]));
    packets[1].meta.link = LB_LINK_IP;
    packets[1].struct_size--;
    CHECK(LB_STATUS_STRUCT_SIZE, lb_steer(balancers[0], packets, 2, told[1]));
    HOLDS(told[1][0] == 77);
    config.core = 2;
    CHECK(LB_STATUS_VALUE, lb_balancer_init(memory_of(layout), layout.size, &config, &sizes,
                                            rules_in_place(image, length), &balancers[0]));
    config.core = 0;
    config.reserved = 1;
    CHECK(LB_STATUS_VALUE, lb_balancer_init(memory_of(layout), layout.size, &config, &sizes,
                                            rules_in_place(image, length), &balancers[0]));
}

int main(int argc, char **argv)
{
    size_t length;
    HOLDS(argc == 2);
    HOLDS(lb_abi_version() == LB_ABI_VERSION);
    length = steps(argv[1]);
    refuse_memory();
    refuse_images(length);
    refuse_packets(length);
    share(length);
    return 0;
}
