// SPDX-License-Identifier: Apache-2.0
/*
 * The kernel's part of the relay: forwards the RTP of known flows from where it comes in to where it goes out, and
 * passes everything else up to the sockets of the relay process, untouched.
 *
 * Attached to the ingress of an interface (TCX, or clsact before Linux 6.6). The table `flows` says what to forward:
 * see media/fastpath/table.py, which writes it, and media/rtp.py, whose counting is repeated here step by step. No
 * BTF, no libbpf, and nothing from outside the packet and the maps.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HTONS(x) ((__be16)__builtin_bswap16(x))
#define HTONL(x) ((__be32)__builtin_bswap32(x))
#else
#define HTONS(x) ((__be16)(x))
#define HTONL(x) ((__be32)(x))
#endif
#define NTOHS HTONS
#define NTOHL HTONL

/* To the next program on this interface, and by default up to the socket. TCX_NEXT has the same value. */
#define PASS TC_ACT_UNSPEC

#define AF_INET 2
#define AF_INET6 10

#define FLOWS_MAX 65536
#define WORKERS_MAX 1024

/* A packet is the border's own on the far side, so it starts with what a socket would give it. */
#define TTL 64

/* RFC 3550 s.A.1, as in media/rtp.py. */
#define MAX_DROPOUT 3000
#define MAX_MISORDER 100
#define SEQ_MOD 0x10000
/* A step beyond this is a new timestamp origin, not jitter. */
#define DISCONTINUITY_NS 5000000000ULL

struct rtp_header {
	__u8 first;
	__u8 second;
	__be16 seq;
	__be32 timestamp;
	__be32 ssrc;
};

/* Addresses of IPv4 are the first word, the others are zero. */
struct flow_key {
	__be32 local[4];
	__be32 remote[4];
	__be16 local_port;
	__be16 remote_port;
	__u32 family;
};

struct flow {
	/* What to do; written by the relay, never here. Bitmaps are by payload type. */
	__u64 allowed[2];
	__u64 timed[2]; /* those on the clock of `tick`: their jitter is measured */
	__be32 source[4];
	__be32 target[4];
	__be32 next_hop[4];
	__be16 source_port;
	__be16 target_port;
	__u32 ifindex;
	__u32 mtu;
	__u32 tick; /* ns of one timestamp unit, times 256 */
	__u32 worker;
	__u32 incoming; /* the interface that leads to the sender */
	__u8 tos;
	__u8 next_hop_family;
	__be16 ports; /* those of the key, one over the other: whose this is, see same() */
	__u32 priority; /* for the queues on the way out, as a socket's (IP_TOS sets it) */

	/* What was seen; the relay writes the state that it has reached, and reads how it went on. */
	__u64 packets;
	__u64 bytes;
	__u64 heard; /* ns of CLOCK_MONOTONIC */
	__u64 jitter; /* ns times 16, RFC 3550 s.A.8 */
	__u64 max_jitter;
	__u64 seen[2];
	__s64 expected_before;
	__s64 not_received;
	__u32 ssrc;
	__u32 timestamp;
	__u32 next; /* one after the highest sequence number, so up to SEQ_MOD */
	__u32 base;
	__u32 cycles;
	__s32 bad_seq;
	__u32 reordered;
	__u32 resets;
	__u32 ssrc_changes;
	__u8 active; /* see armed() */
	__u8 comparable;
	__u8 payload_type;
	__u8 unused_too;
};

struct map_definition {
	__u32 type;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 flags;
};

struct map_definition flows SEC("maps") = {
	.type = BPF_MAP_TYPE_HASH,
	.key_size = sizeof(struct flow_key),
	.value_size = sizeof(struct flow),
	.max_entries = FLOWS_MAX,
	.flags = BPF_F_NO_PREALLOC,
};

/* Until when (CLOCK_MONOTONIC, ns) the flows of each worker are good: they must not outlive it. */
struct map_definition leases SEC("maps") = {
	.type = BPF_MAP_TYPE_ARRAY,
	.key_size = sizeof(__u32),
	.value_size = sizeof(__u64),
	.max_entries = WORKERS_MAX,
	.flags = 0,
};

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static long (*pull_data)(struct __sk_buff *skb, __u32 len) = (void *)BPF_FUNC_skb_pull_data;
static long (*load_bytes)(const struct __sk_buff *skb, __u32 offset, void *to,
			  __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*change_tail)(struct __sk_buff *skb, __u32 len, __u64 flags) = (void *)BPF_FUNC_skb_change_tail;
static long (*l4_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to,
			       __u64 flags) = (void *)BPF_FUNC_l4_csum_replace;
static long (*vlan_pop)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_vlan_pop;
static __s64 (*csum_update)(struct __sk_buff *skb, __u32 csum) = (void *)BPF_FUNC_csum_update;
static long (*redirect_neigh)(__u32 ifindex, struct bpf_redir_neigh *params, int size,
			      __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

INLINE int has(const __u64 *bitmap, __u32 payload_type)
{
	return (bitmap[payload_type >> 6 & 1] >> (payload_type & 63)) & 1;
}

/*
 * A flow begins to be forwarded with the packet that follows the last one that the relay has sent on: whatever came
 * before is still in the queue of its socket and must not be overtaken.
 */
INLINE int armed(struct flow *flow, __u32 ssrc, __u32 seq)
{
	if (flow->active)
		return 1;
	if (ssrc != flow->ssrc || seq != (flow->next & 0xffff))
		return 0;
	flow->active = 1;
	return 1;
}

/* RFC 3550 s.A.1 init_seq(), over all SSRCs (Reception._restart). */
INLINE void restart(struct flow *flow, __u32 seq)
{
	flow->expected_before += (__s64)flow->cycles + flow->next - flow->base;
	flow->base = seq;
	flow->cycles = 0;
	flow->next = seq + 1;
	flow->bad_seq = -1;
}

/* RFC 3550 s.A.1 update_seq() (Reception._receive_out_of_line). */
INLINE void out_of_line(struct flow *flow, __u32 seq)
{
	__u32 highest = (flow->next - 1) & 0xffff;
	__u32 delta = (seq - highest) & 0xffff;

	if (delta < MAX_DROPOUT) {
		if (delta) {
			if (seq < highest)
				flow->cycles += SEQ_MOD;
			flow->next = seq + 1;
		}
	} else if (delta <= SEQ_MOD - MAX_MISORDER) {
		if ((__s32)seq == flow->bad_seq) {
			flow->resets++;
			restart(flow, seq);
		} else {
			flow->bad_seq = (seq + 1) & 0xffff;
			flow->not_received++;
		}
	} else {
		flow->reordered++;
	}
}

/* Reception.receive. Two processors may have packets of one flow at once: then a figure may be one off. */
INLINE void count(struct flow *flow, const struct rtp_header *rtp, __u32 size, __u64 now)
{
	__u32 ssrc = NTOHL(rtp->ssrc), timestamp = NTOHL(rtp->timestamp), seq = NTOHS(rtp->seq);
	__u32 payload_type = rtp->second & 0x7f;

	if (ssrc != flow->ssrc) {
		flow->ssrc_changes++;
		restart(flow, seq);
		flow->ssrc = ssrc;
		flow->comparable = 0;
	} else if (seq == (flow->next & 0xffff)) {
		flow->cycles += flow->next - seq;
		flow->next = seq + 1;
	} else {
		out_of_line(flow, seq);
	}
	flow->payload_type = payload_type;
	flow->seen[payload_type >> 6 & 1] |= 1ULL << (payload_type & 63);
	if (!has(flow->timed, payload_type)) {
		flow->comparable = 0;
	} else {
		if (flow->comparable) {
			/* RFC 3550 s.A.8: arrival and timestamp, each against the packet before. */
			__u32 step = timestamp - flow->timestamp;
			__u64 passed = now - flow->heard;
			__u64 late;

			if (step >> 31) {
				late = passed + (((__u64)(0U - step) * flow->tick) >> 8);
			} else {
				__u64 due = ((__u64)step * flow->tick) >> 8;

				late = passed > due ? passed - due : due - passed;
			}
			if (late < DISCONTINUITY_NS) {
				flow->jitter = flow->jitter + late - (flow->jitter >> 4);
				if (flow->jitter > flow->max_jitter)
					flow->max_jitter = flow->jitter;
			}
		}
		flow->comparable = 1;
	}
	flow->timestamp = timestamp;
	flow->heard = now;
	__sync_fetch_and_add(&flow->packets, 1);
	__sync_fetch_and_add(&flow->bytes, size);
}

/*
 * The UDP checksum after a change of `addresses` (a difference, RFC 1624) and of the ports. A packet from this very
 * machine may have only its pseudo header summed up as yet (CHECKSUM_PARTIAL): the helpers see to that. Zero means that
 * there is none (RFC 768), and a sum that becomes zero is told as ffff.
 */
INLINE long fix_udp(struct __sk_buff *skb, __u32 offset, __u64 addresses, const struct udphdr *old,
		    const struct flow *flow, __u64 pseudo)
{
	__u32 before, after;

	before = (__u32)old->source | (__u32)old->dest << 16;
	after = (__u32)flow->source_port | (__u32)flow->target_port << 16;
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
	before = (__u32)old->source << 16 | old->dest;
	after = (__u32)flow->source_port << 16 | flow->target_port;
#endif
	return l4_csum_replace(skb, offset, 0, addresses, pseudo | BPF_F_MARK_MANGLED_0) ||
	       l4_csum_replace(skb, offset, before, after, sizeof(before) | BPF_F_MARK_MANGLED_0);
}

/* What IPv4 and IPv6 have in common once the flow key is known: the flow if this packet is to be forwarded. */
INLINE struct flow *find(struct __sk_buff *skb, const struct flow_key *key, const struct rtp_header *rtp, __u32 ip_bytes,
			 __u64 now)
{
	struct flow *flow;
	__u64 *lease;

	/* RFC 7983 s.7: STUN, DTLS and ZRTP have another first octet. RFC 5761 s.4: 192-223 are RTCP. */
	if ((rtp->first & 0xc0) != 0x80 || (rtp->second >= 192 && rtp->second <= 223))
		return 0;
	flow = map_lookup(&flows, key);
	/* Who forges the sender's address on another network gets no further than the kernel's own check of routes. */
	if (!flow || skb->ifindex != flow->incoming)
		return 0;
	if (!has(flow->allowed, rtp->second & 0x7f) || ip_bytes > flow->mtu) {
		/* What follows must not overtake it: the relay will put the flow down again. */
		flow->active = 0;
		return 0;
	}
	lease = map_lookup(&leases, &flow->worker);
	if (!lease || *lease < now) {
		flow->active = 0;
		return 0;
	}
	return armed(flow, NTOHL(rtp->ssrc), NTOHS(rtp->seq)) ? flow : 0;
}

/* UDP that is not as expected, with its ports at `offset`: to the socket, and what follows must not overtake it. */
INLINE int surface(struct __sk_buff *skb, struct flow_key *key, __u32 offset)
{
	struct udphdr udp;
	struct flow *flow;

	if (load_bytes(skb, offset, &udp, sizeof(udp)))
		return PASS;
	key->local_port = udp.dest;
	key->remote_port = udp.source;
	flow = map_lookup(&flows, key);
	if (flow && skb->ifindex == flow->incoming)
		flow->active = 0;
	return PASS;
}

/*
 * Whether `flow` is still that of `key`. The table gives the room of a flow that is deleted to the next one at once, even
 * while a processor that the hypervisor has stopped is at it here.
 */
INLINE int same(const struct flow *flow, const struct flow_key *key)
{
	/* After all that was read of it. */
	asm volatile("" ::: "memory");
	return flow->ports == (key->local_port ^ key->remote_port);
}

/*
 * Out by the flow's interface. The kernel knows the neighbour's MAC and asks for it when it does not; the packet goes by
 * the queues of the interface, where tcpdump sees it.
 */
INLINE int send(struct __sk_buff *skb, struct flow *flow, const struct flow_key *key, const struct rtp_header *rtp,
		__u32 size, __u64 now)
{
	struct bpf_redir_neigh to = {};
	__u32 ifindex = flow->ifindex, priority = flow->priority;

	to.nh_family = flow->next_hop_family;
	to.ipv6_nh[0] = flow->next_hop[0];
	if (flow->next_hop_family == AF_INET6) {
		to.ipv6_nh[1] = flow->next_hop[1];
		to.ipv6_nh[2] = flow->next_hop[2];
		to.ipv6_nh[3] = flow->next_hop[3];
	}
	if (!same(flow, key) || (skb->vlan_present && vlan_pop(skb)))
		return TC_ACT_SHOT;
	count(flow, rtp, size, now);
	skb->priority = priority;
	return redirect_neigh(ifindex, &to, sizeof(to), 0);
}

/* Small frames are padded by the sender's network card: what is behind the IP packet does not cross. */
INLINE int trim(struct __sk_buff *skb, __u32 bytes)
{
	if (skb->len == bytes)
		return 0;
	return skb->len < bytes || change_tail(skb, bytes, 0);
}

/* The difference between two words of a packet, added to a sum that has room for its carries (RFC 1624 s.3). */
INLINE __u64 differ(__u64 sum, __be32 before, __be32 after)
{
	return sum + (__u32)~before + after;
}

/* Such a sum in 32 bits, and in the 16 of a checksum field. */
INLINE __u32 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)((sum & 0xffffffff) + (sum >> 32));
}

INLINE __u16 checksum(__u16 before, __u32 difference)
{
	__u32 sum = (__u16)~before + (difference & 0xffff) + (difference >> 16);

	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~(sum + (sum >> 16));
}

struct packet4 {
	struct iphdr ip;
	struct udphdr udp;
	struct rtp_header rtp;
} __attribute__((packed, aligned(2)));

INLINE int relay4(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	struct packet4 *packet = data + ETH_HLEN;
	struct flow_key key = {};
	struct rtp_header rtp;
	struct udphdr udp;
	/* Words: version, class and length; identification and fragment; time to live, protocol and checksum; addresses. */
	__be32 old[5], new[5];
	struct flow *flow;
	__u32 ip_bytes, addresses;
	__u64 now;

	if ((void *)(packet + 1) > (void *)(long)skb->data_end)
		return PASS;
	/* Of a fragmented packet the first part has the ports; it is complete no sooner than that. */
	if ((*(__u8 *)packet & 0xf0) != 0x40 || packet->ip.protocol != IPPROTO_UDP ||
	    packet->ip.frag_off & HTONS(0x1fff))
		return PASS;
	ip_bytes = NTOHS(packet->ip.tot_len);
	__builtin_memcpy(old, packet, sizeof(old));
	udp = packet->udp;
	rtp = packet->rtp;
	key.family = AF_INET;
	key.local[0] = old[4];
	key.remote[0] = old[3];
	/* No options, so that everything is where it is expected; one packet and the whole of it. */
	if (*(__u8 *)packet != 0x45 || skb->gso_size || old[1] & HTONL(0x2000) || ip_bytes < sizeof(*packet) ||
	    NTOHS(udp.len) != ip_bytes - sizeof(old))
		return surface(skb, &key, ETH_HLEN + (*(__u8 *)&old & 0x0f) * 4);
	key.local_port = udp.dest;
	key.remote_port = udp.source;
	now = ktime_get_ns();
	flow = find(skb, &key, &rtp, ip_bytes, now);
	if (!flow)
		return PASS;
	if (trim(skb, ETH_HLEN + ip_bytes))
		return TC_ACT_SHOT;

	/* As a socket of ours writes it: no identification where nothing may be fragmented (RFC 6864 s.4.1). */
	new[0] = (old[0] & ~HTONL(0x00ff0000)) | HTONL((__u32)flow->tos << 16);
	new[1] = HTONL(0x4000);
	new[2] = (old[2] & HTONL(0x00ffffff)) | HTONL((__u32)TTL << 24);
	new[3] = flow->source[0];
	new[4] = flow->target[0];
	addresses = folded(differ(differ(0, old[3], new[3]), old[4], new[4]));
	if (fix_udp(skb, ETH_HLEN + sizeof(new) + __builtin_offsetof(struct udphdr, check), addresses, &udp, flow,
		    BPF_F_PSEUDO_HDR))
		return TC_ACT_SHOT;
	/*
	 * The rest by hand, which is half as dear as by the helpers: the header's own sum is there in any case. (Since the
	 * program writes, the kernel first gives it a head of its own of every packet that a capture holds as well.)
	 */
	data = (void *)(long)skb->data;
	packet = data + ETH_HLEN;
	if ((void *)(packet + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	__builtin_memcpy(packet, new, sizeof(new));
	packet->ip.check =
		checksum(packet->ip.check, folded(differ(differ(differ(addresses, old[0], new[0]), old[1], new[1]),
							 old[2], new[2])));
	packet->udp.source = flow->source_port;
	packet->udp.dest = flow->target_port;
	return send(skb, flow, &key, &rtp, ip_bytes - sizeof(old) - sizeof(udp), now);
}

/* Where UDP begins in an IPv6 packet, behind extension headers and in a first fragment too (RFC 8200 s.4); 0 if nowhere. */
INLINE __u32 udp_offset(struct __sk_buff *skb, __u8 next)
{
	__u32 offset = ETH_HLEN + sizeof(struct ipv6hdr);
	__u8 header[4];

#pragma unroll
	for (int depth = 0; depth < 4; depth++) {
		if (next == IPPROTO_UDP)
			return offset;
		if (load_bytes(skb, offset, header, sizeof(header)))
			return 0;
		if (next == IPPROTO_FRAGMENT) {
			if (header[2] || header[3] & 0xf8)
				return 0;
			offset += 8;
		} else if (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS) {
			offset += (header[1] + 1) * 8;
		} else {
			return 0;
		}
		next = header[0];
	}
	return 0;
}

struct packet6 {
	struct ipv6hdr ip;
	struct udphdr udp;
	struct rtp_header rtp;
} __attribute__((packed, aligned(2)));

INLINE int relay6(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	struct packet6 *packet = data + ETH_HLEN;
	struct flow_key key = {};
	struct rtp_header rtp;
	struct udphdr udp;
	/* Words: the first is version, class and flow label, the second length, next header and hop limit. */
	__be32 old[10], new[10];
	struct flow *flow;
	__u32 udp_bytes;
	__u8 next;
	__u64 now, addresses, pseudo = 0;

	if ((void *)(packet + 1) > (void *)(long)skb->data_end)
		return PASS;
	if ((*(__u8 *)packet & 0xf0) != 0x60)
		return PASS;
	next = packet->ip.nexthdr;
	udp_bytes = NTOHS(packet->ip.payload_len);
	__builtin_memcpy(old, packet, sizeof(old));
	udp = packet->udp;
	rtp = packet->rtp;
	key.family = AF_INET6;
	__builtin_memcpy(key.remote, old + 2, 16);
	__builtin_memcpy(key.local, old + 6, 16);
	/* No extension headers: those of fragments are among them. RFC 8200 s.8.1: UDP has a checksum here. */
	if (next != IPPROTO_UDP || skb->gso_size || !udp.check || udp_bytes < sizeof(udp) + sizeof(rtp) ||
	    NTOHS(udp.len) != udp_bytes) {
		__u32 offset = udp_offset(skb, next);

		return offset ? surface(skb, &key, offset) : PASS;
	}
	key.local_port = udp.dest;
	key.remote_port = udp.source;
	now = ktime_get_ns();
	flow = find(skb, &key, &rtp, sizeof(old) + udp_bytes, now);
	if (!flow)
		return PASS;
	if (trim(skb, ETH_HLEN + sizeof(old) + udp_bytes))
		return TC_ACT_SHOT;

	new[0] = HTONL(0x60000000 | (__u32)flow->tos << 20);
	new[1] = (old[1] & HTONL(0xffffff00)) | HTONL(TTL);
	__builtin_memcpy(new + 2, flow->source, 16);
	__builtin_memcpy(new + 6, flow->target, 16);
	addresses = 0;
#pragma unroll
	for (int word = 2; word < 10; word++)
		addresses = differ(addresses, old[word], new[word]);
	/*
	 * Where the device has summed up the whole packet, the helper's pseudo header flag spoils that sum on kernels
	 * before 6.16, since no header checksum makes up for the addresses as in IPv4. Without it the sum is right as far
	 * as UDP covers the change; the first two words are not covered.
	 */
	if (csum_update(skb, folded(differ(differ(0, old[0], new[0]), old[1], new[1]))) < 0)
		pseudo = BPF_F_PSEUDO_HDR;
	if (fix_udp(skb, ETH_HLEN + sizeof(new) + __builtin_offsetof(struct udphdr, check), folded(addresses), &udp, flow,
		    pseudo))
		return TC_ACT_SHOT;
	data = (void *)(long)skb->data;
	packet = data + ETH_HLEN;
	if ((void *)(packet + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	__builtin_memcpy(packet, new, sizeof(new));
	packet->udp.source = flow->source_port;
	packet->udp.dest = flow->target_port;
	return send(skb, flow, &key, &rtp, udp_bytes - sizeof(udp), now);
}

/*
 * Whether the first bytes of a packet can be read; some drivers keep what is beyond Ethernet's header in a page of its own.
 * Compared, not subtracted: for that the verifier would want CAP_PERFMON too.
 */
INLINE int linear(struct __sk_buff *skb, __u32 bytes)
{
	void *data = (void *)(long)skb->data;

	return data + bytes <= (void *)(long)skb->data_end || !pull_data(skb, bytes);
}

SEC("tc")
int relay(struct __sk_buff *skb)
{
	/*
	 * A tagged packet belongs to the VLAN's own interface, which has the program too and sees it without the tag. VLAN 0 is
	 * none, but a priority on this very link (IEEE 802.1Q s.9.6). Those for other hosts (a promiscuous interface) are not
	 * ours either.
	 */
	if ((skb->vlan_present && skb->vlan_tci & 0x0fff) || skb->pkt_type)
		return PASS;
	if (skb->protocol == HTONS(ETH_P_IP)) {
		if (!linear(skb, ETH_HLEN + sizeof(struct packet4)))
			return PASS;
		return relay4(skb);
	}
	if (skb->protocol == HTONS(ETH_P_IPV6)) {
		if (!linear(skb, ETH_HLEN + sizeof(struct packet6)))
			return PASS;
		return relay6(skb);
	}
	return PASS;
}

char program_license[] SEC("license") = "Apache-2.0";
