/* What the XDP NAT's program and its loader share. */
#pragma once

enum { ENDPOINTS = 5, SERVICES = 10 };

/* A packet's, in network order. */
struct tuple {
    __u32 source, destination;
    __u16 source_port, destination_port;
    __u32 protocol;
};

/* What a key stands for: the addresses and ports that a packet of it leaves with, and what is noted of it. */
struct flow {
    __u32 source, destination;
    __u16 source_port, destination_port;
    __u32 packets;
    __u64 seen;
};

struct service {
    __u32 endpoints[ENDPOINTS];
    __u16 port;
    __u16 pad;
};

/* Set before the program is loaded. */
struct settings {
    __u32 connections;
    /* Whether each packet begins a connection. */
    __u32 fresh;
};

/* Where the packets have got to, and what became of them. */
struct run {
    __u64 random, next, begun, hits;
};

#define NETWORK16(n) ((__u16)((n) >> 8 | ((n)&0xff) << 8))
#define NETWORK32(n) __builtin_bswap32(n)

/* What the client of this number dials: no two alike. */
static inline __attribute__((always_inline)) struct tuple dialled(__u32 number)
{
    struct tuple tuple = {
        .source = NETWORK32(0x0ac80000 | (number & 0xffff)),
        .destination = NETWORK32(0x0a600000 + number % SERVICES),
        .source_port = NETWORK16((__u16)(1024 + (number >> 16))),
        .destination_port = NETWORK16(80),
        .protocol = 6,
    };
    return tuple;
}

/* The endpoint that serves a connection of those known at the start. */
static inline __attribute__((always_inline)) __u32 endpoint(__u32 service, __u32 number)
{
    return NETWORK32(0x0a800000 + service * ENDPOINTS + number % ENDPOINTS);
}

static inline __attribute__((always_inline)) struct tuple answer(struct tuple original, __u32 address, __u16 port)
{
    struct tuple tuple = {
        .source = address,
        .destination = original.source,
        .source_port = port,
        .destination_port = original.source_port,
        .protocol = original.protocol,
    };
    return tuple;
}
