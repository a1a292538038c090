/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * lb_core: the packet path of a Kubernetes Service proxy, for C11 and C++17.
 *
 * The conventions of these functions are on one page, README.md beside this file. Made by cbindgen from
 * lb-core/src/ffi, do not edit. */

#ifndef LB_CORE_H
#define LB_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
#define LB_MUST_USE [[nodiscard]]
#elif defined(__GNUC__)
#define LB_MUST_USE __attribute__((warn_unused_result))
#else
#define LB_MUST_USE
#endif

/** One second, in the unit of every time here. */
#define LB_SECOND UINT64_C(1000000000)

/** Why a packet got its verdict. Numbers are never given to other reasons. */
enum lb_code
#ifdef __cplusplus
  : uint8_t
#endif // __cplusplus
 {
    LB_CODE_PASS = 0,
    LB_CODE_ACCEPT = 1,
    LB_CODE_FORWARD = 2,
    LB_CODE_FORWARD_REPLY = 3,
    LB_CODE_HOLD = 4,
    LB_CODE_ELSEWHERE = 5,
    /** The bytes at hand end before the headers do. */
    LB_CODE_TRUNCATED = 8,
    /** The IP header contradicts itself: version, header length or total length. */
    LB_CODE_BAD_IP_HEADER = 9,
    /** The transport header contradicts itself or does not fit in the packet. */
    LB_CODE_BAD_TRANSPORT_HEADER = 10,
    /** More IPv6 extension headers than the engine walks over. */
    LB_CODE_TOO_MANY_EXTENSIONS = 11,
    /**
     * A fragment that no host would send: empty, misaligned, within a transport header, or past the end of any datagram.
     */
    LB_CODE_BAD_FRAGMENT = 12,
    /** An IPv6 packet with an IPv4-mapped address, which must not be on a wire (RFC 4291 §2.5.5.2). */
    LB_CODE_MAPPED_ADDRESS = 13,
    /**
     * A Service is dialled from an address that no host can have: multicast, broadcast, the zero network; or from loopback, and not by the node itself (RFC 1122 §3.2.1.3).
     */
    LB_CODE_MARTIAN_SOURCE = 14,
    /**
     * A Service is dialled from the very address and port that is dialled: the answer would come back as another question.
     */
    LB_CODE_LAND = 15,
    /** The traffic policy is Local and this node has no usable endpoint (SEMANTICS §6.4). */
    LB_CODE_NO_LOCAL_ENDPOINT = 16,
    /** The source is in none of the Service's loadBalancerSourceRanges (SEMANTICS §8.6). */
    LB_CODE_SOURCE_RANGE = 17,
    /** The destination lies in the Service CIDR but belongs to no Service (SEMANTICS §6.6). */
    LB_CODE_UNALLOCATED_CLUSTER_IP = 18,
    /** A packet to a loopback address that did not come from one (SEMANTICS §9.5). */
    LB_CODE_LOOPBACK_GUARD = 19,
    /** No room for a new flow and no flow of a lower class to evict. */
    LB_CODE_FLOW_TABLE_FULL = 24,
    /** None of the source ports tried for a translation towards this backend is free. */
    LB_CODE_NO_PORT = 25,
    /** The flow must be masqueraded and the node has no address of this family. */
    LB_CODE_NO_MASQUERADE_ADDRESS = 26,
    /** No room to remember another fragmented datagram. */
    LB_CODE_FRAGMENT_TABLE_FULL = 27,
    /** A fragment overlaps an earlier one of its datagram (RFC 5722). */
    LB_CODE_FRAGMENT_OVERLAP = 28,
    /** The flow's backend may no longer serve it and nothing may take its place (SEMANTICS §11.5). */
    LB_CODE_STALE_FLOW = 29,
    /** A fragmented SCTP packet whose ports must change: its CRC32c covers bytes that are in other fragments. */
    LB_CODE_UNTRANSLATABLE_SCTP = 30,
    /** An ICMP error that quotes a packet from a Vip, of no known flow. */
    LB_CODE_UNRELATED_ERROR = 31,
    /** An ICMP redirect about a flow: it would lead past the translation. */
    LB_CODE_REDIRECT = 32,
    /** The Service has no usable endpoint in the whole cluster (SEMANTICS §6.4). */
    LB_CODE_NO_ENDPOINTS = 48,
    /** The address is a Service's, the port is not (SEMANTICS §6.6). */
    LB_CODE_UNMATCHED_PORT = 49,
};
#ifndef __cplusplus
typedef uint8_t lb_code;
#endif // __cplusplus

/**
 * The version of this interface. A program may go on if `lb_abi_version()` returns the one that it was compiled with;
 * structs that grow do so without changing it (see `struct_size`), so another number means another interface.
 */
#define LB_ABI_VERSION 1

/** What a call came to. Anything but `LB_STATUS_OK` leaves every output as it was. */
enum lb_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /** Done. */
    LB_STATUS_OK = 0,
    /** Nothing is wrong, but there is nothing to return: no such flow, no deadline, no answer to be sent. */
    LB_STATUS_NOTHING = 1,
    /** A pointer that must not be NULL is. */
    LB_STATUS_NULL = 2,
    /** A pointer is not aligned as its type, or the layout, asks. */
    LB_STATUS_ALIGNMENT = 3,
    /**
     * A `struct_size` is of no version of that struct that this library knows: initialise it with `sizeof`, and use
     * a library no older than the header.
     */
    LB_STATUS_STRUCT_SIZE = 4,
    /** A length or count that no memory has. */
    LB_STATUS_LENGTH = 5,
    /** A field holds a number that is none of its enum's, or sizes that no address space has room for. */
    LB_STATUS_VALUE = 6,
    /** The memory is smaller than the layout says. */
    LB_STATUS_MEMORY = 7,
    /** More flows of one family than 2^28. */
    LB_STATUS_TOO_MANY_FLOWS = 8,
    /** These rules are in force in a balancer, and only to be reached through it. */
    LB_STATUS_IN_USE = 9,
    /** The bytes are not a rule image: compile one with `lb compile`. */
    LB_STATUS_NOT_AN_IMAGE = 16,
    /** The image is of another version of its format: compile it again with this release. */
    LB_STATUS_VERSION = 17,
    /** The image is shorter than it says: fetch it again. */
    LB_STATUS_TRUNCATED = 18,
    /** The image does not match its checksum: fetch it again. */
    LB_STATUS_CORRUPT = 19,
    /** The image contradicts itself: its compiler is at fault. */
    LB_STATUS_UNSOUND = 20,
    /** A delta where a full image is needed. */
    LB_STATUS_NOT_FULL = 21,
    /** The delta was made for other rules than these: apply those in between, or swap in a full image. */
    LB_STATUS_WRONG_BASE = 32,
    /** The delta claims an address that a service of these rules has. */
    LB_STATUS_CONFLICT = 33,
    /** These rules have no room for so many service ports. */
    LB_STATUS_NO_ROOM_SERVICES = 34,
    /** These rules have no room for so many addresses and ports. */
    LB_STATUS_NO_ROOM_VIPS = 35,
    /** These rules have no room for a segment of this size. */
    LB_STATUS_NO_ROOM_SEGMENTS = 36,
    /** These rules are read in place and can't change: make some with room. */
    LB_STATUS_READ_ONLY = 37,
    /** One of the flow's tuples is another flow's already. */
    LB_STATUS_TAKEN = 48,
    /** The flow table is full of flows that may not be evicted. */
    LB_STATUS_FULL = 49,
    /** The two tuples are not of one flow: family, protocol and zone must agree, and the tuples differ. */
    LB_STATUS_MIXED = 50,
    /** The flow's packets are steered to another core than this balancer's. */
    LB_STATUS_ELSEWHERE = 51,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lb_status lb_status;
#else
typedef int32_t lb_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/** What a packet's first byte is part of. */
enum lb_link
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /** An Ethernet II frame, with up to two VLAN tags. */
    LB_LINK_ETHERNET = 0,
    /** An IPv4 or IPv6 header, by its version. */
    LB_LINK_IP = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lb_link lb_link;
#else
typedef uint8_t lb_link;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/** The state of a packet's transport checksum, which its bytes don't tell. */
enum lb_checksum
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It covers the packet: updated by the difference, so that a right one stays right and a wrong one wrong.
     */
    LB_CHECKSUM_COMPLETE = 0,
    /** It covers the pseudo-header only and hardware adds the rest: updated by the addresses' difference. */
    LB_CHECKSUM_PARTIAL = 1,
    /** There is none yet, all of it is hardware's to fill in: left alone. */
    LB_CHECKSUM_ABSENT = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lb_checksum lb_checksum;
#else
typedef uint8_t lb_checksum;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/** Where a packet came from, as far as the caller knows better than its source address tells. */
enum lb_origin
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /** Received. */
    LB_ORIGIN_WIRE = 0,
    /** Received on an interface that only pods use. */
    LB_ORIGIN_POD = 1,
    /** Sent by the node itself. */
    LB_ORIGIN_NODE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lb_origin lb_origin;
#else
typedef uint8_t lb_origin;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/** What is to be done with a packet. */
enum lb_action
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /** Not ours, untouched: route it as if the balancer were not there. */
    LB_ACTION_PASS = 0,
    /** For the node itself, untouched: deliver it locally. */
    LB_ACTION_ACCEPT = 1,
    /** Rewritten in place: route it by its new destination. */
    LB_ACTION_FORWARD = 2,
    /**
     * A fragment whose first is missing, untouched: keep it until a packet `releases` its `datagram`, and then submit
     * it again.
     */
    LB_ACTION_HOLD = 3,
    /** Drop it without a word. */
    LB_ACTION_DROP = 4,
    /** Drop it, and send what `lb_write_reply` writes. */
    LB_ACTION_REJECT = 5,
    /**
     * For the balancer of another `core`, untouched: hand it over. Only where several share the traffic, and only fragments and
     * what was not steered.
     */
    LB_ACTION_ELSEWHERE = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lb_action lb_action;
#else
typedef uint8_t lb_action;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/** Which way a packet of a flow goes. */
enum lb_direction
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /** From the client to the backend. */
    LB_DIRECTION_ORIGINAL = 0,
    /** Back. */
    LB_DIRECTION_REPLY = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lb_direction lb_direction;
#else
typedef uint8_t lb_direction;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/** Where a flow stands; TCP's names are those of RFC 9293 3.3.2 as Linux' conntrack uses them. */
enum lb_state
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    LB_STATE_TCP_SYN_SENT = 1,
    LB_STATE_TCP_SYN_RECEIVED = 2,
    /** Picked up in mid-stream, the backend not heard yet. */
    LB_STATE_TCP_PICKED_UP = 3,
    LB_STATE_TCP_ESTABLISHED = 4,
    LB_STATE_TCP_FIN_WAIT = 5,
    LB_STATE_TCP_CLOSE_WAIT = 6,
    LB_STATE_TCP_LAST_ACK = 7,
    LB_STATE_TCP_TIME_WAIT = 8,
    /** Reset. */
    LB_STATE_TCP_CLOSE = 9,
    /** Nothing seen yet from the backend. */
    LB_STATE_UDP_UNREPLIED = 10,
    /** Seen both ways. */
    LB_STATE_UDP_STREAM = 11,
    LB_STATE_SCTP_OPENING = 12,
    LB_STATE_SCTP_ESTABLISHED = 13,
    LB_STATE_SCTP_CLOSING = 14,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lb_state lb_state;
#else
typedef uint8_t lb_state;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The packet path of one core: flows, rules in force, counters. One thread at a time may use it; there are no locks.
 */
typedef struct lb_balancer lb_balancer;

/**
 * Compiled rules. They lie in memory of the caller's, and are either a loaded image, read where it lies and never
 * written (flash will do), or a table with room that takes deltas.
 */
typedef struct lb_rules lb_rules;

/**
 * Idle times in nanoseconds after which a flow is forgotten, by its state. Resolution is 1/16 s, at most a year.
 */
typedef struct lb_timeouts {
    uint64_t tcp_syn_sent;
    uint64_t tcp_syn_received;
    /** Picked up in mid-stream, the backend not heard yet. */
    uint64_t tcp_picked_up;
    uint64_t tcp_established;
    uint64_t tcp_fin_wait;
    uint64_t tcp_close_wait;
    uint64_t tcp_last_ack;
    uint64_t tcp_time_wait;
    uint64_t tcp_close;
    uint64_t udp_unreplied;
    uint64_t udp_stream;
    uint64_t sctp_opening;
    uint64_t sctp_established;
    uint64_t sctp_closing;
    /** For the fragments of one datagram to arrive. */
    uint64_t fragments;
} lb_timeouts;

/**
 * What a balancer is told once, when it is made. Start from `lb_config_linux`; the key and the seed have no default.
 */
typedef struct lb_config {
    /** `sizeof (lb_config)`; may end before `timeouts`, which are then Linux', or before `core`. */
    uint32_t struct_size;
    /** ICMP errors that `lb_write_reply` may write in a second, and at once after a quiet one. */
    uint32_t replies_per_second;
    /**
     * The key of every hash that an outsider could aim at: random, and secret; fixed for a replay that repeats.
     */
    uint8_t hash_key[16];
    /** The seed of the generator behind random choices of backends and ports. */
    uint64_t seed;
    /** How long flows live without traffic. */
    struct lb_timeouts timeouts;
    /** Which core the balancer is, from 0, where several share the traffic: see `lb_steer`. */
    uint16_t core;
    /** How many cores share it, the same at each; 0 and 1 mean that there is one. */
    uint16_t cores;
    /** Zero. */
    uint32_t reserved;
    /**
     * The key under which clients are shared out, the same at each core. Whoever knows it can aim at one core.
     */
    uint8_t steer_key[16];
} lb_config;

/** How much a balancer may remember. */
typedef struct lb_sizes {
    /** `sizeof (lb_sizes)`. */
    uint32_t struct_size;
    /** IPv4 flows, at most 2^28. */
    uint32_t v4_flows;
    /** IPv6 flows, at most 2^28. */
    uint32_t v6_flows;
    /** Service ports, both families counted: as many as the rules may hold. */
    uint32_t services;
    /** Clients remembered for session affinity; 0 turns it off. */
    uint32_t affinity;
    /**
     * Backends whose live flows are counted, for the schedulers lc, sed and nq; 0 makes them take all for idle.
     */
    uint32_t backends;
    /** Fragmented datagrams under way. */
    uint32_t fragments;
} lb_sizes;

/** How much memory something takes, and how it must be aligned. */
typedef struct lb_layout {
    /** `sizeof (lb_layout)`. */
    uint32_t struct_size;
    /** In bytes, a power of two. */
    uint32_t alignment;
    /** In bytes, a multiple of the alignment. */
    size_t size;
} lb_layout;

/**
 * What exactly was wrong with an image or a delta: the two numbers that its status is about.
 *
 * | status | expected | found |
 * | --- | --- | --- |
 * | `LB_STATUS_VERSION` | the format's version here | the image's |
 * | `LB_STATUS_TRUNCATED` | bytes there should be | bytes there are |
 * | `LB_STATUS_UNSOUND` | 0 | where the contradiction is, in bytes |
 * | `LB_STATUS_WRONG_BASE` | the fingerprint that the delta applies to | the rules' |
 * | `LB_STATUS_CONFLICT` | 0 | the id of the service port that claims too much |
 * | `LB_STATUS_NO_ROOM_...` | how much would be enough | 0 |
 */
typedef struct lb_fault {
    /** `sizeof (lb_fault)`. */
    uint32_t struct_size;
    /** The status that was returned. */
    lb_status status;
    /** See the table. */
    uint64_t expected;
    /** See the table. */
    uint64_t found;
} lb_fault;

/** What a flow is recognised by. Ports are numbers of this machine, not of the wire. */
typedef struct lb_tuple {
    /** The sender, in network order; an IPv4 address as `::ffff:a.b.c.d`. */
    uint8_t source[16];
    /** The receiver. */
    uint8_t destination[16];
    uint16_t source_port;
    uint16_t destination_port;
    /** The address space, from `lb_meta`. */
    uint16_t zone;
    /** As in the IP header: 6 is TCP, 17 UDP, 132 SCTP. */
    uint8_t protocol;
    /** Zero. */
    uint8_t reserved;
} lb_tuple;

/** A flow as it can be shown, saved and brought back. */
typedef struct lb_flow {
    /** `sizeof (lb_flow)`; the same for every flow of an array. */
    uint32_t struct_size;
    /** Its name in its balancer, until it ends. Ignored by `lb_restore`. */
    uint32_t id;
    /** As the client sends: from itself to the address it dialled. */
    struct lb_tuple original;
    /** As the backend answers: from itself to the client, or to the masquerade address. */
    struct lb_tuple reply;
    /** When it will be forgotten if no packet comes, in nanoseconds since the caller's origin. */
    uint64_t deadline;
    /** Packets seen from the client and from the backend, each wrapping at 2^32. */
    uint32_t packets[2];
    /** The slot of its service port in the rules that last decided about it. Ignored by `lb_restore`. */
    uint32_t slot;
    /** Where it stands. */
    lb_state state;
    /** 1 if its source was replaced by the node's own address, else 0. */
    uint8_t masqueraded;
    /** 1 if the client's packets are left as they are and the backend answers directly, else 0. */
    uint8_t direct;
    /** Zero. */
    uint8_t reserved;
} lb_flow;

/** What a packet's bytes can't tell about it. All zeros: a whole Ethernet frame from the wire. */
typedef struct lb_meta {
    /** The address space that its addresses belong to; 0 where there is only one. */
    uint16_t zone;
    lb_link link;
    lb_checksum checksum;
    lb_origin origin;
    /** Zero. */
    uint8_t reserved[3];
} lb_meta;

/** What became of a packet. */
typedef struct lb_verdict {
    /** What to do with the packet. */
    lb_action action;
    /** Why: an index of counters (`lb_verdict_count`) and of words (`lb_code_label`). */
    lb_code code;
    /** With `LB_ACTION_FORWARD`: which way it goes. */
    lb_direction direction;
    /** Whether `releases` holds the name of a datagram. */
    bool has_releases;
    /** With `LB_ACTION_FORWARD`: the flow, as `lb_flow_by_id` knows it, until that flow ends. */
    uint32_t flow;
    /** With `LB_ACTION_HOLD`: the name of the fragmented datagram it is of. */
    uint64_t datagram;
    /** The datagram whose held fragments may be submitted again, after this packet. */
    uint64_t releases;
    /** With `LB_ACTION_ELSEWHERE`: whose it is. */
    uint16_t core;
    /** Zero. */
    uint16_t reserved[3];
} lb_verdict;

/** One packet: in, what the caller knows; out, the verdict. */
typedef struct lb_packet {
    /** `sizeof (lb_packet)`; the same for every packet of an array. */
    uint32_t struct_size;
    /** In: what the bytes can't tell. */
    struct lb_meta meta;
    /**
     * In: the bytes at hand, from the link or IP header on. May be fewer than the packet's own length where a first
     * segment ends; those beyond the packet (padding) are left alone. Rewritten in place.
     */
    uint8_t *data;
    /** In: how many bytes. */
    size_t length;
    /** Out. */
    struct lb_verdict verdict;
} lb_packet;

/** How much rules with room can hold. */
typedef struct lb_room {
    /** `sizeof (lb_room)`. */
    uint32_t struct_size;
    /** Service ports, both families counted. */
    uint32_t services;
    /** What clients dial: addresses with ports, and node ports, both families counted. */
    uint32_t vips;
    /** Bytes of segments, each of which is rounded up to a power of two of at least 64. */
    uint32_t segments;
} lb_room;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/** The `LB_ABI_VERSION` that this library was built with. */
LB_MUST_USE uint32_t lb_abi_version(void);

/**
 * Fills in the defaults of Linux and kube-proxy: timeouts, and 1000 replies a second. The key and the seed become
 * zeros, to be replaced by numbers of the caller's choice.
 *
 * @param config its `struct_size` must be set
 */
lb_status lb_config_linux(struct lb_config *config);

/**
 * How much memory a balancer of these sizes takes. An IPv4 flow comes to less than 100 bytes, an IPv6 flow to less
 * than 160, both directions and the index included.
 *
 * @param sizes  how much it may remember
 * @param layout receives size and alignment
 */
lb_status lb_balancer_layout(const struct lb_sizes *sizes,
                             struct lb_layout *layout);

/**
 * Makes a balancer with no flows.
 *
 * @param memory   at least `lb_balancer_layout(sizes, ...)`, whatever is in it; the library's until the balancer is
 *                 no longer used. There is nothing to be torn down: the memory may then simply be used again.
 * @param length   its bytes
 * @param config   key, seed, timeouts
 * @param sizes    how much it may remember
 * @param rules    the rules to begin with; they are in force from now on, until they are swapped
 * @param balancer receives the handle
 */
lb_status lb_balancer_init(void *memory,
                           size_t length,
                           const struct lb_config *config,
                           const struct lb_sizes *sizes,
                           struct lb_rules *rules,
                           struct lb_balancer **balancer);

/**
 * Applies a delta to the rules in force: all of it or nothing, at the cost of the change. Flows of services that
 * changed are compared with them at their next packet.
 *
 * @param fault told what is wrong with the delta; may be NULL
 */
lb_status lb_apply(struct lb_balancer *balancer,
                   const uint8_t *delta,
                   size_t delta_length,
                   struct lb_fault *fault);

/**
 * Puts other rules in force, in constant time. Every flow is compared with them at its next packet.
 *
 * @param next     the rules from now on
 * @param previous receives the handle of those until now, whose memory is the caller's again; may be NULL
 */
lb_status lb_swap_rules(struct lb_balancer *balancer, struct lb_rules *next, struct lb_rules **previous);

/**
 * Forgets flows whose deadline has passed. When it is called changes no verdict (a packet never finds a flow past
 * its deadline), but for a full table's and those of the schedulers that count live flows. All entries must be looked at
 * once in four years: deadlines are compared modulo 8.5.
 *
 * @param now       nanoseconds since an origin of the caller's choice
 * @param budget    how many entries to look at: the bound of the work
 * @param forgotten receives how many flows those were; may be NULL
 */
lb_status lb_expire(struct lb_balancer *balancer,
                    uint64_t now,
                    size_t budget,
                    size_t *forgotten);

/**
 * A time before which nothing can expire. `LB_STATUS_NOTHING` if there is no flow.
 *
 * @param deadline receives it, in nanoseconds since the caller's origin
 */
lb_status lb_next_deadline(const struct lb_balancer *balancer, uint64_t *deadline);

/**
 * A flow by its name; `LB_STATUS_NOTHING` once it has ended.
 *
 * @param id   `lb_verdict.flow`
 * @param flow receives it; its `struct_size` must be set
 */
lb_status lb_flow_by_id(const struct lb_balancer *balancer, uint32_t id, struct lb_flow *flow);

/**
 * Saves flows, as many as there is room for, from where the last call ended. Begin with a `position` of 0 and go on
 * until `count` is 0. Flows that begin or end in between may or may not be among them.
 *
 * @param position where to go on; advanced
 * @param flows    an array; `struct_size` must be set in every one
 * @param room     how many there are
 * @param count    receives how many were written
 */
lb_status lb_flows(const struct lb_balancer *balancer,
                   uint32_t *position,
                   struct lb_flow *flows,
                   size_t room,
                   size_t *count);

/**
 * Puts a flow in that another balancer, or this one before a restart, had. Its next packet is compared with the rules.
 *
 * @param flow as saved
 * @param id   receives its name here; may be NULL
 */
lb_status lb_restore(struct lb_balancer *balancer,
                     const struct lb_flow *flow,
                     uint32_t *id);

/**
 * Judges packets in order, rewrites those that are forwarded, and leaves a verdict in each. If any of them can't be
 * (a NULL pointer, a number that is none of its enum's), nothing has happened to any.
 *
 * @param now     nanoseconds since an origin of the caller's choice, the same for every call
 * @param packets an array; the buffers must not overlap
 * @param count   how many; any number, 32 at a time are best
 */
lb_status lb_process_batch(struct lb_balancer *balancer,
                           uint64_t now,
                           struct lb_packet *packets,
                           size_t count);

/**
 * Says which core each packet is for, where several share the traffic (`lb_config`): the same whichever balancer is asked
 * that has the same rules. A client's packets, the replies to it, fragments and ICMP errors of both come to one core. What any
 * core may have (ARP, a ping) stays with this one. Reads headers only; judge the packet on its core, with `lb_process_batch`.
 *
 * @param balancer this core's
 * @param packets  an array, as for `lb_process_batch`
 * @param count    how many
 * @param cores    receives a core for each
 */
lb_status lb_steer(const struct lb_balancer *balancer,
                   const struct lb_packet *packets,
                   size_t count,
                   uint16_t *cores);

/**
 * Writes the ICMP error that answers a packet whose verdict is `LB_ACTION_REJECT`, as a packet of the same link:
 * 1280 bytes and the link header always suffice. `LB_STATUS_NOTHING` if there is to be no answer: too many already in
 * this second, a packet that must not be answered (RFC 1122 3.2.2, RFC 4443 2.4), or too little room.
 *
 * @param packet  as it came back from `lb_process_batch`
 * @param out     receives the answer; not the packet's own buffer
 * @param room    how many bytes there are
 * @param written receives how many were written
 */
lb_status lb_write_reply(struct lb_balancer *balancer,
                         uint64_t now,
                         const struct lb_packet *packet,
                         uint8_t *out,
                         size_t room,
                         size_t *written);

/**
 * How much memory rules take.
 *
 * @param room   what `lb_rules_with_room` will be asked for; NULL for `lb_rules_load`, which leaves the image where
 *               it is
 * @param layout receives size and alignment
 */
lb_status lb_rules_layout(const struct lb_room *room,
                          struct lb_layout *layout);

/**
 * Takes an image as rules, where it lies. All of it is checked first, so that no image can do worse than route
 * wrongly. The image is not written, and must stay as it is for as long as the rules are used.
 *
 * @param memory       at least `lb_rules_layout(NULL, ...)`; the library's until the rules are no longer used
 * @param length       its bytes
 * @param image        what `lb compile` writes
 * @param image_length its bytes
 * @param rules        receives the handle
 * @param fault        told what is wrong with the image; may be NULL
 */
lb_status lb_rules_load(void *memory,
                        size_t length,
                        const uint8_t *image,
                        size_t image_length,
                        struct lb_rules **rules,
                        struct lb_fault *fault);

/**
 * Makes empty rules with room for updates. They pass every packet until an image is applied.
 *
 * @param memory at least `lb_rules_layout(room, ...)`; the library's until the rules are no longer used
 * @param length its bytes
 * @param room   how much they can hold
 * @param rules  receives the handle
 */
lb_status lb_rules_with_room(void *memory,
                             size_t length,
                             const struct lb_room *room,
                             struct lb_rules **rules);

/**
 * Applies a delta, or a full image to empty rules: all of it or nothing, at the cost of the change. For rules that
 * are not in force yet, which another core may prepare; `lb_apply` does it to those that are.
 *
 * @param fault told what is wrong with the delta; may be NULL
 */
lb_status lb_rules_apply(struct lb_rules *rules,
                         const uint8_t *delta,
                         size_t delta_length,
                         struct lb_fault *fault);

/** A sentence for a status, as the cause of a message. NULL if it is none. */
LB_MUST_USE const char *lb_status_text(lb_status status);

/**
 * The word for a verdict's `code` in metrics and comments, like `forward` or `no-endpoints`; NULL if no verdict has
 * it. Codes and words are never given to other reasons.
 */
LB_MUST_USE
const char *lb_code_label(lb_code code);

/** The sentence that explains a code to whoever reads a capture; NULL if no verdict has it. */
LB_MUST_USE const char *lb_code_explanation(lb_code code);

/**
 * Packets whose verdict had this code. Packets in are the sum over all codes.
 *
 * @param count receives the number since the balancer was made
 */
lb_status lb_verdict_count(const struct lb_balancer *balancer, lb_code code, uint64_t *count);

/** The name of a counter: ask for 0, 1, ... until it is NULL. A counter keeps its number and name. */
LB_MUST_USE const char *lb_counter_name(uint32_t counter);

/**
 * A counter by its number. `LB_STATUS_NOTHING` past the last.
 *
 * @param count receives the number since the balancer was made
 */
lb_status lb_counter(const struct lb_balancer *balancer, uint32_t counter, uint64_t *count);

/**
 * A counter by its name, or by a verdict's label. `LB_STATUS_NOTHING` if there is none of that name.
 *
 * @param name  like `flows-created`
 * @param count receives the number since the balancer was made
 */
lb_status lb_counter_by_name(const struct lb_balancer *balancer, const char *name, uint64_t *count);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LB_CORE_H */
