/* All phones of one side of a media benchmark: sends paced RTP streams, and takes the other side's.
 *
 *   phones OPTIONS SHARED TARGETS [PREPARED]
 *
 * OPTIONS is "host first-port sockets side packets warm-up ptime-us". TARGETS has a line "host port" for each stream: where
 * its packets go to. PREPARED holds the packets themselves (SRTP), stream by stream, `packets` of one size for each.
 *
 * SHARED is a file that both sides and the driver map (see struct shared): when to start, what was sent and received
 * so far, and when each packet was sent. A plain packet says that in its payload as well, and the sink believes the
 * payload; a prepared one has nothing there.
 *
 * A packet is late by the time between its send call and its arrival in the receiver's network stack (SO_TIMESTAMPNS,
 * so CLOCK_REALTIME): when this process gets round to reading it does not matter, and it may read in batches. The first
 * `warm-up` packets of each stream are not counted; the streams begin one after the other in the first three quarters of that
 * time, as calls do. At the end one line of JSON tells what came.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    BATCH = 64,
    HEADER = 12,
    PAYLOAD = 160, /* 20 ms of G.711 */
    ROOM = 512,
    REMEMBERED = 1024, /* send times of a stream: 20 s at 20 ms */
    MAX_SOCKETS = 64,
    BUFFER = 8 << 20,
    SUB_BITS = 5, /* a bucket of the histogram is 3 % wide */
    BUCKETS = 64 << SUB_BITS,
};

#define TICK_NS 500000LL
#define SECOND_NS 1000000000LL
#define DRAIN_NS (SECOND_NS / 2)
#define MAGIC 0x52500000u

struct side {
    uint64_t ready, sent, received, finished;
};

struct shared {
    uint64_t start_ns; /* CLOCK_MONOTONIC; 0: not yet */
    uint64_t streams;  /* of each side */
    struct side side[2];
    uint64_t sent_at[]; /* [side][stream][sequence % REMEMBERED], CLOCK_REALTIME */
};

struct stream {
    struct sockaddr_in to;
    uint32_t highest, received;
    uint8_t *seen;
};

static struct shared *shared;
static struct stream *streams;
static int side, count, packets, warm_up, sockets[MAX_SOCKETS], n_sockets;
static long long ptime_ns;
static const uint8_t *prepared;
static size_t prepared_size;
static uint64_t histogram[BUCKETS], latency_max, reordered, doubled, lost, foreign, refused, sent_counted, received_counted;

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

static long long now_ns(clockid_t clock)
{
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * SECOND_NS + at.tv_nsec;
}

static void *map(const char *path, int write, size_t *size)
{
    int fd = open(path, write ? O_RDWR : O_RDONLY);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) < 0)
        fail(path);
    void *at = mmap(NULL, (size_t)info.st_size, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        fail(path);
    close(fd);
    *size = (size_t)info.st_size;
    return at;
}

static uint64_t *sent_at(int from, uint32_t stream, uint32_t seq)
{
    return &shared->sent_at[((uint64_t)from * shared->streams + stream) * REMEMBERED + seq % REMEMBERED];
}

static void open_sockets(const char *host, int first_port)
{
    for (int number = 0; number < n_sockets; number++) {
        struct sockaddr_in local = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(first_port + 2 * number))};
        int on = 1, buffer = BUFFER, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (inet_pton(AF_INET, host, &local.sin_addr) != 1) {
            fprintf(stderr, "phones: not an IPv4 address: %s\n", host);
            exit(2);
        }
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) < 0)
            fail("socket");
        /* Beyond rmem_max as root; without the right to it the limit of the machine has to do. */
        if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) < 0 &&
            setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer) < 0)
            fail("SO_RCVBUF");
        if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer) < 0)
            fail("SO_SNDBUF");
        if (bind(fd, (struct sockaddr *)&local, sizeof local) < 0)
            fail("bind");
        sockets[number] = fd;
    }
}

static void read_targets(const char *path)
{
    char host[INET_ADDRSTRLEN];
    unsigned port;
    FILE *file = fopen(path, "r");
    if (!file)
        fail(path);
    streams = calloc(shared->streams, sizeof *streams);
    if (!streams)
        fail("calloc");
    while (fscanf(file, "%15s %u", host, &port) == 2 && (uint64_t)count < shared->streams) {
        struct stream *each = &streams[count++];
        each->to.sin_family = AF_INET;
        each->to.sin_port = htons((uint16_t)port);
        each->seen = calloc((size_t)packets / 8 + 1, 1);
        if (inet_pton(AF_INET, host, &each->to.sin_addr) != 1 || !each->seen)
            fail(path);
    }
    fclose(file);
    if ((uint64_t)count != shared->streams) {
        fprintf(stderr, "phones: %d targets for %llu streams\n", count, (unsigned long long)shared->streams);
        exit(2);
    }
}

/* Streams take their turns evenly over a packet's time, those of one socket next to each other. */
static int first_of_slot(int slot, int slots)
{
    return (int)((long long)slot * count / slots);
}

static int socket_of(int stream)
{
    return (int)((long long)stream * n_sockets / count);
}

/* Streams begin one after the other: Load.first of streams.py. */
static int first_packet_of(int stream)
{
    return (int)((long long)stream * warm_up * 3 / 4 / count);
}

static void send_streams(int from, int to, uint32_t seq)
{
    static uint8_t buffers[BATCH][HEADER + PAYLOAD];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];

    while (from < to) {
        int number = 0, fd = socket_of(from);
        for (; number < BATCH && from < to && socket_of(from) == fd; from++) {
            if ((int)seq < first_packet_of(from))
                continue;
            uint64_t now = (uint64_t)now_ns(CLOCK_REALTIME);
            *sent_at(side, (uint32_t)from, seq) = now;
            if (prepared) {
                parts[number].iov_base =
                    (void *)(uintptr_t)(prepared + ((size_t)from * (size_t)packets + seq) * prepared_size);
                parts[number].iov_len = prepared_size;
            } else {
                uint8_t *packet = buffers[number];
                uint32_t words[2] = {htonl(seq * 160), htonl(MAGIC | (uint32_t)side << 19 | (uint32_t)from)};
                packet[0] = 0x80;
                packet[1] = 0;
                packet[2] = (uint8_t)(seq >> 8);
                packet[3] = (uint8_t)seq;
                memcpy(packet + 4, words, sizeof words);
                memcpy(packet + HEADER, &now, sizeof now);
                parts[number].iov_base = packet;
                parts[number].iov_len = HEADER + PAYLOAD;
            }
            messages[number].msg_hdr = (struct msghdr){.msg_name = &streams[from].to,
                                                       .msg_namelen = sizeof streams[from].to,
                                                       .msg_iov = &parts[number],
                                                       .msg_iovlen = 1};
            number++;
        }
        for (int done = 0; done < number;) {
            int sent = sendmmsg(sockets[fd], messages + done, (unsigned)(number - done), 0);
            if (sent < 0) {
                /* ICMP errors of earlier packets, or no buffer: this packet counts as sent, and so as lost. */
                refused++;
                sent = 1;
            }
            done += sent;
        }
        if ((int)seq >= warm_up)
            sent_counted += (uint64_t)number;
        __atomic_fetch_add(&shared->side[side].sent, (uint64_t)number, __ATOMIC_RELAXED);
    }
}

static void count_latency(uint64_t ns)
{
    unsigned bucket = (unsigned)ns;
    if (ns >> SUB_BITS) {
        int shift = 63 - __builtin_clzll(ns) - SUB_BITS;
        bucket = ((unsigned)(shift + 1) << SUB_BITS) + (unsigned)((ns >> shift) & ((1u << SUB_BITS) - 1));
    }
    histogram[bucket]++;
    if (ns > latency_max)
        latency_max = ns;
}

static double quantile_us(double share)
{
    uint64_t total = 0, below = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        total += histogram[bucket];
    for (int bucket = 0; bucket < BUCKETS && total; bucket++) {
        below += histogram[bucket];
        if ((double)below >= share * (double)total) {
            int shift = (bucket >> SUB_BITS) - 1;
            uint64_t low = shift < 0 ? (uint64_t)bucket
                                     : (uint64_t)((bucket & ((1 << SUB_BITS) - 1)) | 1 << SUB_BITS) << shift;
            return (double)low / 1000;
        }
    }
    return 0;
}

static void take(const uint8_t *packet, size_t size, uint64_t arrived)
{
    uint32_t ssrc;
    if (size < HEADER + sizeof(uint64_t) || packet[0] != 0x80) {
        foreign++;
        return;
    }
    memcpy(&ssrc, packet + 8, sizeof ssrc);
    ssrc = ntohl(ssrc);
    uint32_t seq = (uint32_t)(packet[2] << 8 | packet[3]), number = ssrc & 0x7FFFF;
    if ((ssrc & ~0x7FFFFu) != (MAGIC | (uint32_t)(!side) << 19) || number >= (uint32_t)count || seq >= (uint32_t)packets) {
        foreign++;
        return;
    }
    struct stream *stream = &streams[number];
    if (stream->seen[seq / 8] & 1 << seq % 8) {
        doubled += (int)seq >= warm_up;
        return;
    }
    stream->seen[seq / 8] |= (uint8_t)(1 << seq % 8);
    if ((int)seq < warm_up)
        return;
    received_counted++;
    stream->received++;
    if (seq < stream->highest)
        reordered++;
    else
        stream->highest = seq;
    uint64_t sent = 0;
    if (size == HEADER + PAYLOAD)
        memcpy(&sent, packet + HEADER, sizeof sent);
    if (!sent)
        sent = *sent_at(!side, number, seq);
    count_latency(arrived > sent ? arrived - sent : 0);
}

static void receive(void)
{
    static uint8_t buffers[BATCH][ROOM];
    static _Alignas(struct cmsghdr) char controls[BATCH][CMSG_SPACE(sizeof(struct timespec))];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];

    for (int each = 0; each < n_sockets; each++) {
        int got;
        do {
            for (int number = 0; number < BATCH; number++) {
                parts[number] = (struct iovec){buffers[number], ROOM};
                messages[number].msg_hdr = (struct msghdr){.msg_iov = &parts[number],
                                                           .msg_iovlen = 1,
                                                           .msg_control = controls[number],
                                                           .msg_controllen = sizeof controls[number]};
            }
            got = recvmmsg(sockets[each], messages, BATCH, MSG_DONTWAIT, NULL);
            for (int number = 0; number < got; number++) {
                struct timespec at = {0, 0};
                struct cmsghdr *note = CMSG_FIRSTHDR(&messages[number].msg_hdr);
                if (note && note->cmsg_type == SCM_TIMESTAMPNS)
                    memcpy(&at, CMSG_DATA(note), sizeof at);
                take(buffers[number], messages[number].msg_len, (uint64_t)(at.tv_sec * SECOND_NS + at.tv_nsec));
            }
            if (got > 0)
                __atomic_fetch_add(&shared->side[side].received, (uint64_t)got, __ATOMIC_RELAXED);
        } while (got == BATCH);
    }
}

static void sleep_until(long long at)
{
    struct timespec when = {at / SECOND_NS, at % SECOND_NS};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
        ;
}

int main(int argc, char **argv)
{
    char host[INET_ADDRSTRLEN];
    int first_port;
    long ptime_us;
    size_t size;

    if (argc < 4 || sscanf(argv[1], "%15s %d %d %d %d %d %ld", host, &first_port, &n_sockets, &side, &packets, &warm_up,
                           &ptime_us) != 7 ||
        n_sockets < 1 || n_sockets > MAX_SOCKETS || side < 0 || side > 1 || packets < 1 || packets > 65535) {
        fprintf(stderr, "phones: see the comment at the top of phones.c\n");
        return 2;
    }
    ptime_ns = ptime_us * 1000;
    shared = map(argv[2], 1, &size);
    if (size < sizeof *shared + 2 * shared->streams * REMEMBERED * sizeof(uint64_t)) {
        fprintf(stderr, "phones: %s is too small\n", argv[2]);
        return 2;
    }
    read_targets(argv[3]);
    if (argc > 4) {
        prepared = map(argv[4], 0, &size);
        prepared_size = size / (size_t)count / (size_t)packets;
    }
    open_sockets(host, first_port);
    prctl(PR_SET_TIMERSLACK, 1);
    __atomic_store_n(&shared->side[side].ready, 1, __ATOMIC_RELEASE);
    long long start, end, latest = 0;
    while (!(start = (long long)__atomic_load_n(&shared->start_ns, __ATOMIC_ACQUIRE)))
        usleep(1000);

    int slots = (int)(ptime_ns / TICK_NS);
    for (long long tick = 0; tick / slots < packets; tick++) {
        long long due = start + tick * TICK_NS;
        int slot = (int)(tick % slots);
        sleep_until(due);
        long long late = now_ns(CLOCK_MONOTONIC) - due;
        if (late > latest && tick / slots >= warm_up)
            latest = late;
        send_streams(first_of_slot(slot, slots), first_of_slot(slot + 1, slots), (uint32_t)(tick / slots));
        receive();
    }
    __atomic_store_n(&shared->side[side].finished, 1, __ATOMIC_RELEASE);
    /* From the end of the other side on, however late that is: its packets are still under way. */
    end = 0;
    do {
        if (!__atomic_load_n(&shared->side[!side].finished, __ATOMIC_ACQUIRE) || !end)
            end = now_ns(CLOCK_MONOTONIC) + DRAIN_NS;
        usleep(2000);
        receive();
    } while (now_ns(CLOCK_MONOTONIC) < end);
    lost = (uint64_t)count * (uint64_t)(packets - warm_up) - received_counted;
    printf("{\"sent\": %llu, \"received\": %llu, \"lost\": %llu, \"reordered\": %llu, \"doubled\": %llu, \"foreign\": %llu,"
           " \"refused\": %llu, \"p50_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f, \"late_ms\": %.3f}\n",
           (unsigned long long)sent_counted, (unsigned long long)received_counted, (unsigned long long)lost,
           (unsigned long long)reordered, (unsigned long long)doubled, (unsigned long long)foreign,
           (unsigned long long)refused, quantile_us(0.5), quantile_us(0.99), (double)latency_max / 1000,
           (double)latest / 1e6);
    return 0;
}
